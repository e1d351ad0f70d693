"""Export: a checkpoint's weights as files that other programs load.

    from raytrain.export.run import export
    paths = export(config, which="best")        # <output>/export/...

A format is a file in `raytrain/export/formats` with one function,

    write(bundle: Bundle, folder: str) -> list[str]

which writes the bundle's weights under `folder` (local or object store, each file or folder whole through
`raytrain.storage.atomic`) and returns the paths it wrote. What it cannot express is a UserError that names what can.
Every safetensors file carries `bundle.header`, so that a file alone tells where it came from.
"""
