"""The observer: a process beside the workers that answers metrics and health by HTTP."""
