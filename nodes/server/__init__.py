"""Exchange with the page: routes, live preview, training monitor, reports."""
