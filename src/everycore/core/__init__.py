"""Pure decisions: inputs in, actions out.

Nothing here touches the operating system, a clock or an event loop; `now` is always an argument.
Thousands of generated histories can therefore be tested in a second.
"""
