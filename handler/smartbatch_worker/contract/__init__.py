"""What both planes have agreed on: settings, metrics, headers, variables. It needs the standard library alone."""
