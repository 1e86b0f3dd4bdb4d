//! Whether a run that goes on has the attention that it had: our own kernels, or cuDNN with the same plans.
//!
//! ```text
//! checkpoint    --attention auto             cudnn                own                  plain
//! own           own                          cuDNN, said          own                  plain, said
//! plain         as without a checkpoint, said                                          plain
//! cuDNN         its plans, where GPU, version and shape are those of the checkpoint    own, plain: said
//!               else anew, said
//! ```
//! The same plans on the same kind of GPU give the same bits; anything else agrees within rounding, which is then said.
use crate::checkpoint::Attended;
use crate::config::Attention;
use crate::device::Device;
use crate::device::cuda::cudnn::{self, Plans, Sdpa};

/// How every sentence begins and ends.
pub const CANNOT: &str = "attention cannot be repeated as the checkpoint has it";
pub const WITHIN: &str = "numbers will agree within rounding, not to the last bit";

/// What becomes of the checkpoint's attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Again {
    /// As the run is asked, whatever was.
    Anew,
    Own,
    Plans(Plans),
}

impl Again {
    /// For the other ranks: which of the three.
    pub fn to_bytes(&self) -> Vec<u8> {
        vec![match self {
            Again::Anew => 0,
            Again::Own => 1,
            Again::Plans(_) => 2,
        }]
    }
    pub fn plans(self) -> Option<Plans> {
        if let Again::Plans(plans) = self { Some(plans) } else { None }
    }
}

/// What attention on this GPU is to be, and what there is to say of it.
pub fn again(stored: Option<&Attended>, asked: Attention, serves: bool, gpu: &str, of: Sdpa) -> (Again, Option<String>) {
    let version = || cudnn::installed().map_err(|e| e.to_string());
    decide(stored, asked, serves, gpu, &of.to_string(), version)
}

fn decide(
    stored: Option<&Attended>,
    asked: Attention,
    serves: bool,
    gpu: &str,
    shape: &str,
    version: impl FnOnce() -> Result<String, String>,
) -> (Again, Option<String>) {
    let said = |again, why: String| (again, Some(format!("{CANNOT}: {why}; {WITHIN}")));
    match stored {
        None => (Again::Anew, None),
        Some(Attended::Own) if asked == Attention::Cudnn => {
            said(Again::Anew, "it was by our own kernels, and cuDNN is asked for".into())
        }
        Some(Attended::Own) if asked == Attention::Plain => {
            said(Again::Own, "it was by our own kernels in tiles, and row by row is asked for".into())
        }
        Some(Attended::Plain) if asked != Attention::Plain => {
            said(Again::Anew, "it was row by row, and that is not asked for".into())
        }
        Some(Attended::Own | Attended::Plain) => (Again::Own, None),
        Some(Attended::Cudnn { version: theirs, .. }) if matches!(asked, Attention::Own | Attention::Plain) => {
            said(Again::Own, format!("it was by cuDNN {theirs}, and our own kernels are asked for"))
        }
        Some(Attended::Cudnn { version: theirs, .. }) if !serves => {
            said(Again::Own, format!("it was by cuDNN {theirs}, which does not serve this run"))
        }
        Some(Attended::Cudnn { version: theirs, gpu: on, shape: of, forward, backward }) => {
            let had = format!("it was by cuDNN {theirs} on {on}, for {of}");
            match version() {
                Err(e) => said(Again::Anew, format!("{had}, and {e}")),
                Ok(v) if (&v, gpu, shape) != (theirs, on, of) => {
                    said(Again::Anew, format!("{had}, and here is cuDNN {v} on {gpu}, for {shape}"))
                }
                Ok(_) => (Again::Plans(Plans::from_texts(forward, backward)), None),
            }
        }
    }
}

/// What a device computes attention with, for a checkpoint. `None`: on a CPU there is one way.
pub fn attended(dev: &Device) -> Option<Attended> {
    let Device::Cuda(gpu) = dev else { return None };
    let Some(attention) = gpu.attention() else { return Some(if gpu.plain { Attended::Plain } else { Attended::Own }) };
    let [forward, backward] = attention.plans.texts();
    let version = cudnn::installed().unwrap_or_default();
    Some(Attended::Cudnn { version, gpu: gpu.gpu.name.clone(), shape: attention.of.to_string(), forward, backward })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cudnn() -> Attended {
        let text = |text: &str| text.to_string();
        let (forward, backward) = (text("{\"f\": 1}"), text("{\"b\": 2}"));
        Attended::Cudnn { version: text("9.8.0"), gpu: text("an H100"), shape: text("4 sequences"), forward, backward }
    }

    /// As decided, and whether something is said.
    fn decided(stored: &Attended, asked: Attention, serves: bool, here: [&str; 3]) -> (Again, Option<String>) {
        let [gpu, shape, version] = here;
        let version = if version.is_empty() { Err("libcudnn.so.9 was not found".into()) } else { Ok(version.into()) };
        let found = decide(Some(stored), asked, serves, gpu, shape, || version);
        assert!(found.1.as_ref().is_none_or(|why| why.starts_with(CANNOT) && why.ends_with(WITHIN)), "{found:?}");
        found
    }

    #[test]
    fn the_same_plans_where_they_can_be_had_and_a_sentence_where_not() {
        const SAME: [&str; 3] = ["an H100", "4 sequences", "9.8.0"];
        let plans = Again::Plans(Plans::from_texts("{\"f\": 1}", "{\"b\": 2}"));
        for asked in [Attention::Auto, Attention::Cudnn] {
            assert_eq!(decided(&cudnn(), asked, true, SAME), (plans.clone(), None));
            for (at, other) in [(0, "an A100"), (1, "8 sequences"), (2, "9.10.1"), (2, "")] {
                let mut here = SAME;
                here[at] = other;
                let (again, why) = decided(&cudnn(), asked, true, here);
                assert_eq!(again, Again::Anew, "{here:?}");
                let why = why.expect("it is said");
                assert!(why.contains("cuDNN 9.8.0 on an H100, for 4 sequences") && why.contains(other), "{why}");
            }
        }
        let (again, why) = decided(&cudnn(), Attention::Auto, false, SAME);
        assert!(again == Again::Own && why.is_some());
        let (again, why) = decided(&cudnn(), Attention::Own, true, SAME);
        assert!(again == Again::Own && why.is_some());
        assert_eq!(decided(&Attended::Own, Attention::Auto, true, SAME), (Again::Own, None));
        assert_eq!(decided(&Attended::Own, Attention::Own, true, SAME), (Again::Own, None));
        let (again, why) = decided(&Attended::Own, Attention::Cudnn, true, SAME);
        assert!(again == Again::Anew && why.is_some());
        assert_eq!(decided(&Attended::Plain, Attention::Plain, true, SAME), (Again::Own, None));
        for (stored, asked, expected) in
            [(Attended::Own, Attention::Plain, Again::Own), (Attended::Plain, Attention::Auto, Again::Anew)]
        {
            let (again, why) = decided(&stored, asked, true, SAME);
            assert!(again == expected && why.is_some(), "{stored:?} {asked:?}");
        }
        assert_eq!(decide(None, Attention::Auto, true, "", "", || Ok(String::new())), (Again::Anew, None));
    }
}
