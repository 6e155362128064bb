"""The report's two layouts, HTML and markdown. They place text and compute nothing."""
