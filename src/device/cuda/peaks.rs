//! What a GPU can do at best, by NVIDIA's data sheets: dense matrix products, without sparsity, at the boost clock.
use crate::device::Precision;

/// How a GPU's name begins, the first that fits, and TFLOP/s in bf16, tf32 and fp32. Sites' own editions (Leonardo's A100 of 64 GB, MareNostrum's H100 of
/// 64 GB) have other clocks and numbers of multiprocessors: they are not here, and --peak-tflops tells.
const PEAKS: [(&str, [f64; 3]); 9] = [
    ("NVIDIA A100-SXM4-40GB", [312.0, 156.0, 19.5]),
    ("NVIDIA A100-SXM4-80GB", [312.0, 156.0, 19.5]),
    ("NVIDIA A100 80GB PCIe", [312.0, 156.0, 19.5]),
    ("NVIDIA H100 80GB HBM3", [989.4, 494.7, 66.9]),
    ("NVIDIA H100 PCIe", [756.0, 378.0, 51.0]),
    ("NVIDIA H200 NVL", [835.5, 417.7, 60.0]),
    ("NVIDIA H200", [989.4, 494.7, 66.9]),
    ("NVIDIA GH200", [989.4, 494.7, 66.9]),
    ("NVIDIA B200", [2250.0, 1125.0, 75.0]),
];

/// TFLOP/s of the GPU of this name; `None`: not known.
pub fn peak_tflops(name: &str, precision: Precision) -> Option<f64> {
    let which = match precision {
        Precision::Bf16 => 0,
        Precision::Tf32 => 1,
        Precision::Fp32 => 2,
    };
    PEAKS.iter().find(|(begins, _)| name.starts_with(begins)).map(|(_, peaks)| peaks[which])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_known_by_how_its_name_begins() {
        assert_eq!(peak_tflops("NVIDIA GH200 120GB", Precision::Bf16), Some(989.4));
        assert_eq!(peak_tflops("NVIDIA H100 80GB HBM3", Precision::Tf32), Some(494.7));
        assert_eq!(peak_tflops("NVIDIA H200 NVL", Precision::Bf16), Some(835.5));
        assert_eq!(peak_tflops("NVIDIA A100-SXM-64GB", Precision::Bf16), None);
        assert_eq!(peak_tflops("NVIDIA H100 64GB HBM3", Precision::Bf16), None);
    }
}
