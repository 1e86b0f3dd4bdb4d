//! `llm-train --version`: what this program is, and which libraries and instructions it finds here. One row each; nothing is
//! started, no GPU is woken, and what is missing is a row too. (`-V` is the first line alone.)
use crate::commands::cli::VERSION;
use crate::device::cuda;
use crate::launch::cores;
use crate::ops::gemm::kernels;
use crate::ops::simd;
use crate::{comm, metrics};

/// The whole block, as it is printed.
pub fn block() -> String {
    let kernels = match cuda::embedded() {
        none if none.is_empty() => "compiled by NVRTC at the first start on a kind of GPU, then kept".into(),
        some => format!("in the program for {}; others compiled by NVRTC", some.join(", ")),
    };
    let forced = simd::forced().map_or(String::new(), |name| format!(" ({}={name})", simd::ISA));
    let instructions = kernels::ALL.iter().filter(|k| (k.available)()).map(|k| k.name).collect::<Vec<_>>().join(" ");
    let mut rows = vec![("MPI", comm::library()), ("HDF5", metrics::library())];
    rows.extend(cuda::versions());
    rows.push(("GPU kernels", kernels));
    rows.push(("processor", cores::processor()));
    rows.push(("instructions", format!("{instructions}{forced}")));
    let row = |(name, text): &(&str, String)| format!("{name:<14}{}\n", text.split_whitespace().collect::<Vec<_>>().join(" "));
    format!("llm-train {VERSION}\n{}", rows.iter().map(row).collect::<String>())
}
