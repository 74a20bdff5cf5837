"""One module per command of `gpulab`.

Each owns its words (`add_to`) and its doing (`run`, which returns an exit code, prints its result on standard output and
everything else on standard error). None ever catches an error only to hide it: `cli.main` says them all in one way.
"""
