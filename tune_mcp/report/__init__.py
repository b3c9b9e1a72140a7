"""Evidence for a reviewer: one set of facts, rendered as markdown, JSON and a page."""
