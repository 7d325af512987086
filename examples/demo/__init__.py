"""The whole product at work, and its promises checked while it runs: `make demo`, or `python -m examples.demo`.

Three processes: this one directs, prints and checks, plays the model vendor on the loopback, and the librarian who
answers approvals; the server, which it kills in mid-stream and starts again; and a caller that holds conversations over
`Converse` and serves a tool. `DEMO_BASE_URL`,
`DEMO_API_KEY` and `DEMO_MODEL` put a real OpenAI-compatible provider in the vendor's place.
"""
