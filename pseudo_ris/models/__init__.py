from pseudo_ris.io.deferred_imports import defer_compiler

defer_compiler()
