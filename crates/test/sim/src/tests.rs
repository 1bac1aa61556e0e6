use crate::run::run_seed;

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in [1, 7, 40] {
        assert_eq!(run_seed(seed).hash, run_seed(seed).hash);
    }
}
