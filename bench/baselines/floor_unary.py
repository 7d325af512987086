"""The floor under a durable ``SubmitRun``: the bare unary, and its event in one durable commit before the answer."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import uvloop

from bench.baselines import bare
from bench.baselines.floor_relay import accepted
from bench.baselines.group_commit import GroupCommit
from bench.baselines.serve import serve
from turnkeeper.v1 import run_service_pb2 as pb


async def main(directory: Path) -> None:
    """Serve until killed."""
    commits = GroupCommit(directory / "floor.db")
    seqs: defaultdict[str, int] = defaultdict(int)

    async def submit(request: pb.SubmitRunRequest, context: Any) -> pb.SubmitRunResponse:
        """A receipt, once its event is durable."""
        response = await bare.submit(request, context)
        session = request.submission.session_id
        seqs[session] += 1
        event = accepted(request.submission, response.receipt.run_id, seqs[session])
        await commits.commit([("acme", session, event.seq, event.run_id, 20, event.SerializeToString())])
        return response

    await serve(bare.handlers(submit))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
