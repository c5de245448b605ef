"""How servers that speak the same API differ, found out by what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Dialect"]


@dataclass(frozen=True)
class Dialect:
    """The words that a server understands."""

    limit: str = "max_completion_tokens"
    """Or `max_tokens`, which older and local servers know."""
    renamed: bool = False
    """The other name of the limit was tried before."""
    form: str = "json_schema"
    """Or `json_object`, or `text`: what is asked for stands in the instructions, too."""
    encoding: str = "base64"
    """Of vectors; or `float`."""

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request to `/chat/completions` in this dialect."""
        said = dict(body)
        said[self.limit] = said.pop("max_completion_tokens")
        if self.form != "json_schema":
            said["response_format"] = {"type": self.form}
        return said

    def embeddings(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request to `/embeddings` in this dialect."""
        return {**body, "encoding_format": self.encoding}

    def after(self, refusal: str) -> Dialect | None:
        """The dialect to try after a request in this one was refused; None: it was not the words.

        Each step is taken once, so that no server is asked for ever.
        """
        said = refusal.lower()
        if self.limit in said and not self.renamed:
            other = {"max_tokens": "max_completion_tokens"}.get(self.limit, "max_tokens")
            return replace(self, limit=other, renamed=True)
        if "encoding_format" in said and self.encoding == "base64":
            return replace(self, encoding="float")
        if any(word in said for word in ("response_format", "json_schema", "json_object")):
            following = {"json_schema": "json_object", "json_object": "text"}.get(self.form)
            return None if following is None else replace(self, form=following)
        return None
