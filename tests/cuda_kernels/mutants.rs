pub fn sources() -> std::path::PathBuf {
    crate::simulator::ops()
}
