"""The commands of `fsbench`."""

# name: (module with a function `main(arguments) -> exit code`, one line)
COMMANDS = {
    "train": ("fsbench.cli.train", "train a model, or a sweep of them with -m"),
    "runs": ("fsbench.cli.runs", "what became of the runs in a directory; removes those that are not wanted"),
    "table": ("fsbench.cli.table", "mean and standard deviation over seeds of finished runs"),
    "compare": ("fsbench.cli.compare", "methods compared: equal searches, paired seeds, and a verdict"),
    "evaluate": ("fsbench.cli.evaluate", "loss and accuracy of a trained network, on its own images or on others"),
    "sharpness": ("fsbench.cli.sharpness", "measure how sharp the minimum of a trained network is"),
    "reproduce": ("fsbench.cli.reproduce", "the papers' tables and figures, published numbers beside measured ones"),
    "plot": ("fsbench.cli.plot", "curves of finished runs, or one point a run, as a picture"),
    "list": ("fsbench.cli.list", "what there is: models, datasets, optimizers, experiments, ..."),
    "rerun": ("fsbench.cli.rerun", "train again what a run directory holds, with changes"),
    "help": ("fsbench.cli.help", "the guides: training, sharpness, library, extending, ..."),
}
