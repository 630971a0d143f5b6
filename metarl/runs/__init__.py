"""A run: its loop, folder, display, alarms and report."""
