"""What `fsbench sharpness --help` says above the configuration."""

HELP = """\
fsbench sharpness [-m] [KEY=VALUE ...]: how sharp the minimum of a trained network is, by the papers' measures.

What to measure: a finished run, or any network on any data set
  run=runs/<id>
  model= dataset=            with model.checkpoint=FILE, or model=timm model.name=NAME model.pretrained=true
Keys people reach for (`fsbench list measures` shows the measures with a line each):
  measures=[...]  samples=N|null  split=train|subset|test  seed=  dtype=float32|float64  device=auto|cpu|cuda
  memory=GIB  data_dir=  dataset.root=  out=DIR  overwrite=true
Options of single measures
  classes=N (trace: so many sampled classes an image, with a standard error)  probes= tolerance= (trace_hutchinson)
  subset_size= subsets= (fisher_determinant, spectral, frobenius_fisher)  logit_norm= (fisher_determinant)
  neighbourhood=sam|asam|fsam rho= eta= ascent_steps= (worst_case)  alphas=[...] (adversarial)
  eigenvalues=K eigenvalue_tolerance= (eigenvalues)

  fsbench sharpness run=runs/<id>
  fsbench sharpness run=runs/<id> measures=[minimum,normalized,fisher_determinant] samples=null
  fsbench sharpness -m 'run=glob(runs/*)' measures=[default,adversarial]
  fsbench sharpness model=timm model.name=resnet18 model.pretrained=true dataset=folder dataset.root=DIR
  fsbench sharpness model=resnet20 model.checkpoint=FILE dataset=cifar10
  fsbench table runs --by optimizer --columns test_accuracy,minimum_sharpness

± is one standard error; `Estimate.interval` of the library gives the interval by Student's t.
Images are not augmented, networks are in eval mode, the loss is cross-entropy. Results go into sharpness.json in the
run's directory; what is there is not measured again unless a setting that matters to it differs. Values of several
settings are kept beside each other; tables take those that were asked for last. A measure that is not defined for a
network is refused, says why, and leaves a gap in tables.
Exit codes: 0 done, 1 all refused or a measure failed, 2 bad input, 3 a sweep with failures, 130 interrupted.
Also: --cfg job (show the configuration), --config-dir DIR (groups of your own), --version.

With these choices:

"""
