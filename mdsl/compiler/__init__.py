"""IR to bytecode: driver, levels, pipeline, settings, program cache, fingerprint, instrumentation."""
