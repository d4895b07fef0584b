"""Makes a program that knows nothing of everycore listen through the primary: `everycore run`."""
