"""Being shown: what a class gets that says what its view is.

Imports nothing heavy, because the vocabulary of the package inherits from it. Invariant: all forms
come from the one view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import View


class Viewed:
    """Something that can be shown as text, JSON and HTML."""

    __slots__ = ()

    def _view(self) -> View:
        raise NotImplementedError

    def to_text(self) -> str:
        """Show it for a terminal."""
        from .text import text_of

        return text_of(self._view())

    def to_dict(self) -> Any:
        """Give it as plain data, such as JSON can say."""
        from .data import as_plain

        return as_plain(self._view().data)

    def to_json(self, indent: int | None = None) -> str:
        """Give it as one JSON document; times are ISO 8601 in UTC."""
        from .data import as_json

        return as_json(self._view().data, indent)

    def to_html(self) -> str:
        """Show it as one element of HTML, without scripts and outside resources."""
        from .html import html_of

        return html_of(self._view())

    def _repr_html_(self) -> str:
        return self.to_html()


class Drawn(Viewed):
    """Something that can be drawn, too."""

    __slots__ = ()

    def to_svg(self) -> str:
        """Draw it as one SVG document, without scripts and outside resources."""
        from .svg import svg_of

        drawn = svg_of(self._view())
        assert drawn is not None, "what is Drawn has a picture"
        return drawn

    def _repr_svg_(self) -> str:
        return self.to_svg()
