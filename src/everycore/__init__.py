"""everycore: Node.js' `cluster` for Python, and further."""
