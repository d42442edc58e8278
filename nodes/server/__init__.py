"""What the nodes exchange with the page: routes, live preview, training monitor, reports."""
