"""Names that the command line prints with; what is shown, and how, stands in `_views`."""

from __future__ import annotations

from ._views.html import card, html_table
from ._views.text import text_table
from ._views.words import moment, plain, text_width

__all__ = ["card", "html_table", "moment", "plain", "text_table", "text_width"]
