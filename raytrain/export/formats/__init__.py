"""Export formats, a file each: `write(bundle, folder)` as `raytrain.export` says;
the file's name is the format's."""
