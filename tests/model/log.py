"""What the effects of a whole history have to say: L-1 and L-2 of the specification."""

from __future__ import annotations

from .state import Effect, Session


class Log:
    """The effects so far, as far as something may be said once only."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.over: set[str] = set()
        self.asynchronous: dict[int, bool] = {}
        self.ended: set[int] = set()
        self.fates: set[int] = set()
        self.gone: set[int | str] = set()
        """Runs and turns that went elsewhere, or have never been."""

    def take(self, effects: list[Effect]) -> None:
        """Look at what a step said."""
        for kind, of, *more in effects:
            if kind in ("closed", "over"):
                assert of not in self.over, ("one end", kind, of)
                self.over.add(str(of))
            elif kind == "opened":
                assert of not in self.over, ("begun after its end", of)
            elif isinstance(of, int):
                self.take_turn(str(kind), of, more)

    def take_turn(self, kind: str, turn: int, more: list[object]) -> None:
        """The same of a turn."""
        if kind == "spawned":
            assert turn not in self.asynchronous, ("one birth", turn)
            assert more[0] not in self.ended, ("below a turn that has ended", turn, more[0])
            self.asynchronous[turn] = more[3] is True
        elif kind == "ended":
            assert turn not in self.ended, ("one end", turn)
            self.ended.add(turn)
        elif kind in ("delivered", "orphaned"):
            assert turn in self.ended, ("no end before its fate", turn)
            assert turn not in self.fates, ("one fate", turn)
            assert kind == "orphaned" or more[0] not in self.ended, ("delivered to a turn that has ended", turn)
            self.fates.add(turn)
        elif kind in ("begin", "goon", "abort", "stop", "conclude", "detach"):
            assert turn not in self.ended, ("an act after the end", kind, turn)

    def forget(self, session: Session) -> None:
        """All that a session has goes elsewhere."""
        self.gone.update(session.runs)
        for turn in session.turns.values():
            lent = turn.loan[1] if turn.loan else []
            self.gone.update([turn.id, *(child for child, _ in (*turn.inbox, *lent))])

    def check_whole(self) -> None:
        """At rest: every run has its end, every child too, and every result its fate."""
        assert not self.accepted - self.over - self.gone, "every run ends"
        assert not self.asynchronous.keys() - self.ended - self.gone, "every child ends"
        results = {turn for turn, is_async in self.asynchronous.items() if is_async}
        assert not results - self.fates - self.gone, "every result is delivered or told to nobody"
