"""The words of one instruction, read in the state of its stage. Pure."""

from __future__ import annotations

from ch_image.build.args import PROXIES, Reader, Scope
from ch_image.build.state import BuildState
from ch_image.dockerfile.ast import Dockerfile, Heredoc, Span, Word
from ch_image.dockerfile.expand import Expander, ExpandError, expand
from ch_image.errors import DockerfileError


class Words:
    """Expands words as Docker's builder does, and knows whether they read something hidden."""

    def __init__(self, state: BuildState, scope: Scope, source: Dockerfile) -> None:
        self.state, self.scope, self.source = state, scope, source
        values = state.environment()
        for name in state.declared:
            if name in PROXIES and name in scope.passed:
                values.setdefault(name, scope.passed[name])
        self._reader = Reader(values)
        self._expander = Expander(source, self._reader)

    @property
    def secret(self) -> bool:
        """Whether a word read so far had a value that must not be shown."""
        seen = self._reader.seen
        return bool(seen & self.state.hidden or seen & PROXIES & self.scope.passed.keys())

    def word(self, word: Word | None) -> str:
        """The one string that ``word`` stands for; empty for None. Raises DockerfileError."""
        return self._expander.word(word) if word is not None else ""

    def words(self, word: Word) -> list[str]:
        """What ``word`` splits into. Raises DockerfileError."""
        return self._expander.words(word)

    def document(self, heredoc: Heredoc) -> str:
        """The text of a COPY heredoc. Raises DockerfileError."""
        return self._expander.document(heredoc)

    def shell_word(self, word: Word) -> str:
        """A word that Docker leaves alone: only names that are set are replaced."""
        escape = self.source.directives.escape
        options = {"keep_quotes": True, "keep_escapes": True, "keep_unset": True}
        try:
            return expand(word.text, self._reader, escape, **options).text
        except ExpandError:
            return word.text  # what looks like a faulty substitution was not meant as one

    def fault(self, word: Word | Span, message: str, *, hint: str = "") -> DockerfileError:
        """An error to raise that points at ``word``."""
        span = word.span if isinstance(word, Word) else word
        return self.source.fault(span, message, hint=hint)
