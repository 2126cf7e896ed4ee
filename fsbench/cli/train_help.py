"""What `fsbench train --help` says above the configuration."""

HELP = """\
fsbench train [-m] [KEY=VALUE ...]: train one model, or with -m every combination of comma-separated values.

Choose from the groups (`fsbench list` GROUP shows them with a line each):
  dataset=  model=  optimizer=  base=  augment=  schedule=  setup=  experiment=  trainer=  logger=  executor=
Keys people reach for:
  seed=  runs_dir=  data_dir=  trainer.epochs=  trainer.batch_size=  trainer.device=auto|cpu|cuda
  trainer.precision=fp32|tf32|bf16|fp16  trainer.devices=N  optimizer.lr=  optimizer.rho=

  fsbench train optimizer=fsam model=wrn28_10
  fsbench train dataset=fashion_mnist model=lenet optimizer=asam trainer.epochs=5
  fsbench train -m optimizer=sgd,sam,asam,fsam seed=0,1,2 dataset=digits model=cnn
  fsbench train -m optimizer=fsam optimizer.rho=0.01,0.05,0.1,0.5 optimizer.eta=0.001,0.1,1
  fsbench train experiment=kim2022/table1 model=wrn28_2 optimizer=fsam
  fsbench train -m optimizer=sam,fsam seed=0,1,2,3 executor=ray executor.gpus=0.25     # or executor=slurm
  fsbench train optimizer=sam trainer.devices=4        (or: torchrun --nproc-per-node=4 -m fsbench train optimizer=sam)

`optimizer=fsam` is Fisher SAM (Kim et al. 2022), not Friendly SAM.
A finished run is not repeated, an interrupted one goes on where it stopped.
Exit codes: 0 done, 1 failed, 2 bad input, 3 a sweep with failures, 4 diverged, 130 interrupted.
Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU leave a checkpoint first; another Ctrl-C ends at once.
Hydra imports, and so runs, what an installed plugin or hydra.searchpath=[pkg://...] names.
Also: --cfg job (show the configuration), --config-dir DIR (groups of your own), --hydra-help, --version.

With these choices:

"""
