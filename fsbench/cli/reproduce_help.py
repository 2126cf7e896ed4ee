"""What `fsbench reproduce --help` says above the options."""

HELP = """\
fsbench reproduce ARTEFACT ... [KEY=VALUE ...]: the papers' tables and figures, published numbers beside measured ones.

  fsbench reproduce list                                        # what there is, and how many runs it takes
  fsbench reproduce kim2022/table1 scale=paper plan=true          # every run, its steps and hours; nothing is started
  fsbench reproduce kim2022/table1 scale=small model=resnet20,wrn28_2 seeds=3
  fsbench reproduce jia2020/table3 ibayashi2021/fig1 'tsuzuku2019/*' kim2022
  fsbench reproduce kim2022/table1 scale=tiny render=true         # draws again from the runs on disk, trains nothing
  fsbench reproduce kim2022/table4 dataset=folder dataset.root=DIR stands_for=cifar10     # a copy of CIFAR-10

Beside the options below:
  AXIS=A,B           restricts an axis of the artefact, such as model=, optimizer=, dataset.noise=
  dataset=NAME       other images; stands_for=NAME keeps the paper's numbers beside them, and its tuned settings
  GROUP=NAME, GROUP.KEY=VALUE (trainer.epochs=3)  change every run
  sharpness.KEY=VALUE (sharpness.samples=100)     change how it is measured
  executor=ray|slurm, executor.KEY=VALUE         runs side by side; fsbench train executor=ray --help shows the keys
  --papers DIR       tables and figures of your own: DIR/<paper>.py with a tuple ARTEFACTS; the files are run as Python

Runs are those of `fsbench train`, in runs_dir; what is finished and measured is not done again, and the same command
goes on where it was interrupted. A run that fails leaves a gap with its reason. Whatever was cut (epochs, images,
seeds, cells, data set) is said in the caption. Files go to results_dir/<paper>/<artefact>/.
Exit codes: 0 done, 2 bad input, 3 some runs failed, 130 interrupted.
Also: --cfg job (show the options), --version.

Options:

"""
