#%Module1.0
# Modulefile of llm-train in Tcl, for Environment Modules; Lmod reads it too, but prefers VERSION.lua beside it.
# scripts/install.sh puts it at PREFIX/modulefiles/llm-train/VERSION with PREFIX written in, and with the modules that the program
# needs at run time (install.sh --depends "openmpi hdf5").

set base    "@PREFIX@"
set version "@VERSION@"
set needed  {@DEPENDS@}

proc ModulesHelp { } {
    puts stderr {
llm-train pretrains and fine-tunes decoder-only language models: one process per device, under srun or mpirun.

  srun llm-train --config run.toml       trains
  llm-train plan --model llama3-8b       memory and arithmetic of a run, on a login node
  llm-train --version                    libraries and instructions found on this node
  man llm-train                          all settings, exit codes, files

Example jobs are in $LLM_TRAIN_ROOT/share/llm-train/jobs, a small corpus in $LLM_TRAIN_ROOT/share/llm-train/data.
Completions for bash: source $LLM_TRAIN_ROOT/share/bash-completion/completions/llm-train
}
}

module-whatis "Name: llm-train"
module-whatis "Version: $version"
module-whatis "Category: application, machine learning"
module-whatis "Keywords: language models, training, MPI"
module-whatis "Description: MPI-native trainer of decoder-only language models"

conflict llm-train
# Unloaded again only when nobody else needs them; where the tool has no such command they must have been loaded before.
foreach module $needed {
    if {[info commands depends-on] ne ""} { depends-on $module } else { prereq $module }
}

prepend-path PATH    $base/bin
prepend-path MANPATH $base/share/man
# An empty place stands for the pages of the system, which man would otherwise no longer find.
append-path  MANPATH ""
setenv LLM_TRAIN_ROOT    $base
setenv LLM_TRAIN_VERSION $version
# Rows are appended to metrics.h5 while somebody follows it, often on file systems without locks.
setenv HDF5_USE_FILE_LOCKING FALSE
