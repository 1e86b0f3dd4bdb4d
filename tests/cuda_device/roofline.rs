//! `bench step --roofline` on a GPU: each op's time lies between two places in the stream. The stub counts operations as milliseconds.
use crate::place::on_gpu;
use crate::scene::side;

#[test]
fn an_ops_time_is_that_of_its_launches() {
    if on_gpu() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("step.json");
    for precision in ["fp32", "bf16"] {
        let options = format!(
            "bench step --model nano --layers 2 --width 32 --heads 2 --vocab 200 --seq-len 16 --global-batch 4 --micro-batch 2 \
             --warm-up 1 --steps 2 --precision {precision} --roofline --json {}",
            file.display()
        );
        let Some(mut job) = side(&options) else { return };
        job.0.env("STUB_CLOCK", "ops").env("STUB_MEMORY", "100000000");
        let ended = job.done();
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let roofline = &json["roofline"];
        let ceilings = &roofline["ceilings"];
        assert!(ended.out.contains(&format!("ceilings of {} here", ceilings["of"].as_str().unwrap())), "{ended}");
        assert!(ceilings["flops_per_second"].as_f64().unwrap() > 0.0 && ceilings["bytes_per_second"].as_f64().unwrap() > 0.0);
        let ops = roofline["ops"].as_array().unwrap();
        let op = |name: &str| {
            ops.iter().find(|op| op["part"] == "" && op["name"] == name).unwrap_or_else(|| panic!("{name}: {ended}"))
        };
        let number = |op: &serde_json::Value, key: &str| op[key].as_f64().unwrap();
        // Two passes of two blocks. A launch each, and the event that ends the op.
        let forward = op("attention forward");
        assert_eq!((number(forward, "calls"), (1e3 * number(forward, "seconds")).round()), (4.0, 4.0 * 2.0), "{ended}");
        // γ and β are summed up by a launch of their own.
        let norm = op("norm backward");
        assert_eq!((number(norm, "calls"), (1e3 * number(norm, "seconds")).round()), (10.0, 10.0 * 3.0), "{ended}");
        // x and y of 32 rows and 32 columns in the precision's numbers, γ and β in weights', statistics in f32; five norms a pass
        let size = if precision == "bf16" { 2.0 } else { 4.0 };
        let bytes = 2.0 * 5.0 * (2.0 * 32.0 * 32.0 * size + 4.0 * 32.0 * 2.0 + 4.0 * 32.0 * 2.0);
        assert_eq!(number(op("norm forward"), "bytes"), bytes, "{ended}");
        assert!(number(roofline, "tallied_seconds") <= number(roofline, "step_seconds") * 1.01, "{ended}");
    }
}
