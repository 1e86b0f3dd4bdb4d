//! What cannot be used, and the one sentence that says so.
use crate::toy::*;
use llm_train::checkpoint::*;
use llm_train::error::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The sentence of an error of input.
fn refused<T: std::fmt::Debug>(r: Result<T>) -> String {
    match r {
        Err(Error::Input(said)) => said,
        other => panic!("expected bad input, found {other:?}"),
    }
}

fn load(dir: &Path) -> Result<()> {
    let toy = Toy::new(0, 1, false);
    load_weights(dir, &toy.dev, &toy.parameters)
}

/// Writes the toy's weights, after `change` has been at their names, types and shapes.
fn file_of(dir: &Path, change: impl Fn(&str, &mut Dtype, &mut Vec<usize>) -> bool) {
    let mut tensors = vec![];
    for p in Toy::new(0, 1, false).parameters {
        let (mut dtype, mut shape) = (Dtype::F32, p.shape.clone());
        if change(&p.name, &mut dtype, &mut shape) {
            let bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
            tensors.push((p.name, dtype, shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn weights_that_are_missing_or_of_another_shape_or_type() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, file) = (dir.path(), dir.path().join("model.safetensors"));
    let file = file.display();
    let fc = "transformer.h.1.c_fc.weight";
    file_of(dir, |name, _, _| name != fc);
    assert_eq!(refused(load(dir)), format!("{file}: expected a tensor {fc} of shape [8, 40], found none of that name"));
    file_of(dir, |name, _, shape| {
        if name == fc {
            shape.reverse();
        }
        true
    });
    assert_eq!(refused(load(dir)), format!("{file}: expected tensor {fc} of shape [8, 40], found [40, 8]"));
    file_of(dir, |name, dtype, _| {
        if name == fc {
            *dtype = Dtype::F64;
        }
        true
    });
    assert_eq!(refused(load(dir)), format!("{file}: expected tensor {fc} as F32, BF16 or F16, found F64"));
    // Nothing is written unless all fits.
    let toy = Toy::new(0, 1, false);
    toy.fill();
    load_weights(dir, &toy.dev, &toy.parameters).unwrap_err();
    toy.assert_filled("after a refusal");
}

#[test]
fn folders_without_weights() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let said = format!("{}: expected model.safetensors or model.safetensors.index.json, found neither", dir.display());
    assert_eq!(refused(load(dir)), said);
    fs::write(dir.join("pytorch_model.bin"), "").unwrap();
    assert!(refused(load(dir)).ends_with("found neither (pytorch_model.bin alone: convert it first)"));
    let index = dir.join("model.safetensors.index.json");
    for (text, found) in [
        ("{", "expected an index of weights, found: EOF"),
        ("{}", "expected weight_map to name a file for each tensor, found no such table"),
        (r#"{"weight_map":{"a":"../b"}}"#, r#"expected the name of a file beside it for a, found "../b""#),
        (r#"{"weight_map":{"a":7}}"#, "expected the name of a file beside it for a, found 7"),
    ] {
        fs::write(&index, text).unwrap();
        let said = refused(load(dir));
        assert!(said.starts_with(&format!("{}: {found}", index.display())), "{said}");
    }
    fs::write(&index, r#"{"weight_map":{"a":"b.safetensors"}}"#).unwrap();
    assert!(refused(load(dir)).contains("b.safetensors: expected a safetensors file, found No such file"));
}

#[test]
fn files_that_are_cut_or_not_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    file_of(dir.path(), |_, _, _| true);
    let whole = fs::read(&file).unwrap();
    let n = whole.len();
    let name = file.display();
    for (bytes, found) in [
        (&whole[..n - 4], format!("{name}: expected {n} bytes by its header, found {}", n - 4)),
        (
            &whole[..100],
            format!(
                "{name}: expected a safetensors file, found a header of {} bytes in a file of 100",
                whole[0] as usize + 256 * whole[1] as usize
            ),
        ),
        (&whole[..5], format!("{name}: expected a safetensors file, found only 5 bytes")),
        (&[255; 64][..], format!("{name}: expected a safetensors file, found a header of {} bytes in a file of 64", u64::MAX)),
        (b"\x02\0\0\0\0\0\0\0[]", format!("{name}: expected a safetensors file, found a header that is not one: ")),
    ] {
        fs::write(&file, bytes).unwrap();
        let said = refused(load(dir.path()));
        assert!(said.starts_with(&found), "{said}\n{found}");
    }
}

#[test]
fn another_model() {
    let out = tempfile::tempdir().unwrap();
    let dir = saved(out.path(), 1);
    same_model(&dir, &config()).unwrap();
    let file = dir.join("config.json");
    let mut other = config();
    other["n_layer"] = json!(3);
    let said = format!("{}: expected n_layer 3 as this run's model has, found 2: it is another model", file.display());
    assert_eq!(refused(same_model(&dir, &other)), said);
    other["model_type"] = json!("llama");
    assert!(refused(same_model(&dir, &other)).contains(r#"expected model_type "llama" as this run's model has, found "gpt2""#));
    other = config();
    other["transformers_version"] = json!("6");
    other["a key of later"] = Value::Null;
    same_model(&dir, &other).unwrap();
}

#[test]
fn progress_that_is_missing_or_of_a_later_program() {
    let out = tempfile::tempdir().unwrap();
    let dir = saved(out.path(), 1);
    let file = dir.join("progress.json");
    let mut later = serde_json::to_value(progress(1, 1)).unwrap();
    later["format"] = json!(FORMAT + 1);
    fs::write(&file, later.to_string()).unwrap();
    let said = format!("{}: expected checkpoint format {FORMAT}, found {}, written by version 0.1.0", file.display(), FORMAT + 1);
    assert_eq!(refused(read_progress(&dir)), said);
    later.as_object_mut().unwrap().remove("samples");
    fs::write(&file, later.to_string()).unwrap();
    assert!(refused(read_progress(&dir)).contains("expected a checkpoint's progress, found: missing field `samples`"));
    fs::remove_file(&file).unwrap();
    assert!(refused(read_progress(&dir)).contains("progress.json: expected a checkpoint's progress, found: No such file"));
}

#[test]
fn moments_that_are_missing_or_anothers() {
    let (out, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let load = |dir: &Path| {
        let toy = Toy::new(0, 1, false);
        load_optimizer(dir, &toy.dev, &toy.parameters, &toy.moments)
    };
    let dir = save_on(out.path(), 1, 3, true, &PLAIN).remove(0).unwrap();
    let others = save_on(other.path(), 1, 4, true, &PLAIN).remove(0).unwrap();
    load(&dir).unwrap();
    let second = dir.join("optimizer-00002-of-00003.safetensors");
    fs::copy(dir.join("optimizer-00003-of-00003.safetensors"), &second).unwrap();
    assert_eq!(
        refused(load(&dir)),
        format!("{}: expected the share of rank 1 of 3, found that of rank 2 of 3", second.display())
    );
    fs::copy(others.join("optimizer-00002-of-00004.safetensors"), &second).unwrap();
    assert_eq!(
        refused(load(&dir)),
        format!("{}: expected the share of rank 1 of 3, found that of rank 1 of 4", second.display())
    );
    fs::copy(dir.join("model.safetensors"), &second).unwrap();
    assert_eq!(
        refused(load(&dir)),
        format!("{}: expected its share of the groups in __metadata__, found none", second.display())
    );
    fs::remove_file(&second).unwrap();
    assert!(refused(load(&dir)).starts_with(&format!("{}: expected a safetensors file, found No such file", second.display())));
    let mut shorter = Toy::new(0, 1, false);
    shorter.parameters.retain(|p| p.name != "transformer.h.0.k.weight");
    let said = refused(load_optimizer(&others, &shorter.dev, &shorter.parameters, &shorter.moments));
    assert!(said.contains(": expected 472 moments of group 1 of 4, found Some(536)"), "{said}");
}

#[test]
fn a_place_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    check_writable("--out", dir.path()).unwrap();
    check_writable("--out", &dir.path().join("not/yet/there")).unwrap();
    assert_eq!(listing(dir.path()), Vec::<String>::new());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for out in [file.clone(), file.join("below")] {
        let (out, file) = (out.display(), file.display());
        let said = refused(check_writable("--out", Path::new(&out.to_string())));
        assert_eq!(said, format!("--out {out}: expected a folder to write into, found {file}: not a folder"));
    }
    // Nobody, not even root, makes folders there.
    let said = refused(check_writable("--out", Path::new("/proc/self/run")));
    assert!(said.starts_with("--out /proc/self/run: expected a folder to write into, found /proc/self: "), "{said}");
}
