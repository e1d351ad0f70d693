"""Export: a checkpoint's weights as files that other programs load.

    from raytrain.export.run import export
    written = export(config, which="best")        # <output>/export/...

A method says what it learned in the types of `raytrain.artifacts`. A format is a file in
`raytrain/export/formats` with

    TAKES                                         # the types it can write
    write(bundle: Bundle, folder: str) -> list[Written]

which writes the bundle's artifacts, all of those types, under `folder` (local or object store,
each file or folder whole through `raytrain.storage.atomic`) and returns each path with the lines
that say how it is loaded. What it cannot express is a UserError that names what can. Every
safetensors file carries `bundle.header`, so that a file alone tells where it came from.
"""
