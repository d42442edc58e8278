"""The personalization study: six synthetic persons with truth from every side."""
