//! The program on a GPU that is not there: it runs as it ships, and the loader finds a stub driver, a stub cuBLASLt and a stub
//! NCCL (tests/cuda/stub) beside the real compiler. Kernels run on the CPU by name, through hostsim.
//!
//! ```text
//! scene      builds the stubs, starts the program          orders     streams in any order; each event left out is seen
//! families   losses are the CPU's, and the goldens'        refused    what is missing is a sentence
//! ranks      two of them, by NCCL and by MPI               launches   one step's launches, as a file
//! products   what ends a product, against f64              plans      cuDNN's, for every preset
//! waits      the host waits once a step                     grid       every family in every layout
//! place      here, or on a GPU (scripts/gpu-check.sh)      check      what is asked of a GPU beside the goldens
//! energy     NVML's numbers, and none                      profile    ranges that a profiler is told
//! bundled    gpu-check, from a bundle that was moved       halves     sums and gathers in bf16; rounding at random
//! again      what a checkpoint says of the GPU that wrote it
//! clock      where the time of a step goes, counted         roofline   and that of each op
//! inference  losses held out, and texts: while training, by eval, by generate
//! ```
mod again;
mod bundled;
mod check;
mod clock;
mod energy;
mod families;
mod grid;
mod halves;
mod inference;
mod launches;
mod orders;
mod place;
mod plans;
mod products;
mod profile;
#[path = "../cli/program.rs"]
#[allow(dead_code)]
mod program;
mod ranks;
mod refused;
mod roofline;
mod scene;
mod waits;
