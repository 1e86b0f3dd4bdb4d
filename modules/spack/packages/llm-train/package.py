# Spack: scripts/vendor.sh fills in version, archive and sum. Then:
#   spack repo add FOLDER/spack && spack mirror add …, or the archive's folder in `url` below; spack install llm-train
import os

from spack.package import *


class LlmTrain(Package):
    """Pretrains and fine-tunes decoder-only language models: one MPI-native executable, one process per device."""

    homepage = "https://example.org/llm-train"
    # The archive of scripts/vendor.sh lies beside the folder spack/ of this repository.
    url = "file://" + os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..", "@ARCHIVE@"))

    license("MIT OR Apache-2.0")

    version("@VERSION@", sha256="@SHA256@")

    depends_on("c", type="build")
    depends_on("rust@1.89:", type="build")
    depends_on("llvm+clang", type="build", when="^mpi")  # libclang reads the headers of MPI
    depends_on("pkgconfig", type="build")
    depends_on("mpi")
    depends_on("hdf5")

    def setup_build_environment(self, env):
        env.set("HDF5_DIR", self.spec["hdf5"].prefix)
        env.set("LIBCLANG_PATH", self.spec["llvm"].prefix.lib)
        env.set("MPICC", self.spec["mpi"].mpicc)

    def install(self, spec, prefix):
        Executable("scripts/install.sh")("--prefix", prefix)

    def setup_run_environment(self, env):
        env.set("HDF5_USE_FILE_LOCKING", "FALSE")

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        Executable(self.prefix.bin.join("llm-train"))("--version")
