-- Lmod modulefile of llm-train. scripts/install.sh puts it at PREFIX/modulefiles/llm-train/VERSION.lua with PREFIX written
-- in, and with the modules that the program needs at run time (install.sh --depends "openmpi hdf5"). Then:
--
--   module use PREFIX/modulefiles && module load llm-train

local base = "@PREFIX@"
local version = myModuleVersion()

help([[
llm-train pretrains and fine-tunes decoder-only language models: one process per device, under srun or mpirun.

  srun llm-train --config run.toml       trains
  llm-train plan --model llama3-8b       memory and arithmetic of a run, on a login node
  llm-train --version                    libraries and instructions found on this node
  man llm-train                          all settings, exit codes, files

Example jobs are in $LLM_TRAIN_ROOT/share/llm-train/jobs, a small corpus in $LLM_TRAIN_ROOT/share/llm-train/data.
Completions for bash: source $LLM_TRAIN_ROOT/share/bash-completion/completions/llm-train
]])

whatis("Name: llm-train")
whatis("Version: " .. version)
whatis("Category: application, machine learning")
whatis("Keywords: language models, training, MPI")
whatis("Description: MPI-native trainer of decoder-only language models")

-- One version at a time. (A family becomes part of a variable's name: no dash in it.)
family("llm_train")
conflict("llm-train")
-- depends_on, not load: unloaded again only when nobody else needs them.
--@DEPENDS@

prepend_path("PATH", pathJoin(base, "bin"))
prepend_path("MANPATH", pathJoin(base, "share/man"))
-- An empty place stands for the pages of the system, which man would otherwise no longer find.
append_path("MANPATH", "")
setenv("LLM_TRAIN_ROOT", base)
setenv("LLM_TRAIN_VERSION", version)
-- Rows are appended to metrics.h5 while somebody follows it, often on file systems without locks.
setenv("HDF5_USE_FILE_LOCKING", "FALSE")
