"""The settings of the command line: one typed tree, and the layers that its values come from.

`tree` is the only source. Options, variables, keys of the settings file, `--help`, the reference page, the
JSON schema and `everycore config` derive from it. Nothing in this package reads a file or starts anything.
"""
