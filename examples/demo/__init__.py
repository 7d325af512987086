"""The whole product at work, and its promises checked while it runs: `make demo`, or `python -m examples.demo`.

Three processes: this one directs, prints and checks, and plays the model vendor on the loopback; the server, which it
kills in mid-stream and starts again; and a caller that holds conversations over `Converse`. `DEMO_BASE_URL`,
`DEMO_API_KEY` and `DEMO_MODEL` put a real OpenAI-compatible provider in the vendor's place.
"""
