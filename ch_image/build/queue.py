"""Which steps of a plan are ready, found without looking at all of them again."""

from __future__ import annotations

from ch_image.build.plan import Plan, Step


class Queue:
    """Hands out each step once, as soon as all that it needs is done."""

    def __init__(self, plan: Plan) -> None:
        self._done: set[int] = set()
        self._taken: set[int] = set()
        self._ready: list[int] = []
        self._lacks: dict[int, int] = {}  # step -> how many of its needs are not done
        self._users: dict[int, list[int]] = {}  # step -> those that need it
        self._before: dict[int, int] = {}
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Go on with a larger plan, in which the steps that are done keep their numbers."""
        self._ready, self._lacks, self._users = [], {}, {}
        for step in plan.steps:
            if step.id in self._taken:
                continue
            open_needs = [need for need in step.needs if need not in self._done]
            if not open_needs:
                self._ready.append(step.id)
            self._lacks[step.id] = len(open_needs)
            for need in open_needs:
                self._users.setdefault(need, []).append(step.id)
        self._before = {
            step: before
            for stage in plan.stages
            for before, step in zip(stage.steps, stage.steps[1:], strict=False)
        }

    def take(self) -> list[int]:
        """The steps that are ready and were not taken yet, in the order of the plan."""
        out, self._ready = self._ready, []
        self._taken.update(out)
        return out

    def done(self, step: int) -> None:
        """``step`` is done: what waited for it alone is ready."""
        if step in self._done:
            return
        self._done.add(step)
        for user in self._users.pop(step, ()):
            self._lacks[user] -= 1
            if not self._lacks[user]:
                self._ready.append(user)

    def before(self, step: Step) -> int:
        """The step of the same stage that ``step`` goes on from."""
        return self._before[step.id]
