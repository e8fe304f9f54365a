"""Reports for people: one HTML page each, and a few lines of Markdown for where there is no room for a page."""
