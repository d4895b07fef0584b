"""Pure decisions: inputs in, actions out.

Nothing here touches the operating system, a clock or an event loop; `now` is always an argument.
That is what lets thousands of generated histories run in a second.
"""
