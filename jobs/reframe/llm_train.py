"""llm-train in a centre's regression suite (ReFrame 4): the speed of a training step, by scale, and the verification.

    reframe -C settings.py -c llm_train.py -r -t 1node

`llm-train` is found in the PATH, after `module load llm-train` where LLM_TRAIN_MODULE names the module. On systems other
than those of `reference` the figures are reported and held against nothing: add a line for yours once it was measured.
"""
import os
import subprocess

import reframe as rfm
import reframe.utility.sanity as sn

MODULES = os.environ.get('LLM_TRAIN_MODULE', '').split()


class LlmTrain(rfm.RunOnlyRegressionTest):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'llm-train'
    modules = MODULES
    # One rank a GPU, or a NUMA node where there is none.
    ranks_per_node = variable(int, value=2)
    cpus_per_rank = variable(int, value=1)

    def shape(self, nodes):
        self.num_tasks_per_node = self.ranks_per_node
        self.num_tasks = nodes * self.ranks_per_node
        self.num_cpus_per_task = self.cpus_per_rank
        # Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch.
        self.env_vars['SRUN_CPUS_PER_TASK'] = str(self.cpus_per_rank)


@rfm.simple_test
class StepTest(LlmTrain):
    """Tokens per second of the training loop on made-up tokens, the batch growing with the ranks."""
    nodes = parameter([1, 2, 8, 32])
    preset = variable(str, value='nano')
    seq_len = variable(int, value=256)
    micro_batch = variable(int, value=2)
    precision = variable(str, value='bf16')
    steps = variable(int, value=10)
    # system:partition -> figure -> (value, lowest share below, highest share above, unit)
    reference = {
        '*': {
            'tokens_per_second': (None, None, None, 'tokens/s'),
            'tflops_per_device': (None, None, None, 'TFLOP/s'),
            'step_seconds': (None, None, None, 's'),
        },
    }

    @run_after('init')
    def set_scale(self):
        self.tags = {f'{self.nodes}node' + ('s' if self.nodes > 1 else ''), 'performance'}

    @run_before('run')
    def set_job(self):
        self.shape(self.nodes)
        self.executable_opts = [
            'bench', 'step', '--model', self.preset, '--seq-len', str(self.seq_len), '--micro-batch', str(self.micro_batch),
            '--precision', self.precision, '--zero', '1', '--steps', str(self.steps),
        ]

    @sanity_function
    def every_step_was_timed(self):
        return sn.all([
            sn.assert_found(rf'^bench step: .* {self.num_tasks} × ', self.stdout),
            sn.assert_found(rf'^tokens/sec: \S+\s+n {self.steps},', self.stdout),
        ])

    @performance_function('tokens/s')
    def tokens_per_second(self):
        return sn.extractsingle(r'^tokens/sec: (\S+)', self.stdout, 1, float)

    @performance_function('TFLOP/s')
    def tflops_per_device(self):
        return sn.extractsingle(r'^throughput per device \(TFLOP/s\): (\S+)', self.stdout, 1, float)

    @performance_function('s')
    def step_seconds(self):
        return sn.extractsingle(r'^elapsed time per iteration \(s\): (\S+)', self.stdout, 1, float)


def can_verify():
    try:
        return subprocess.run(['llm-train', 'verify', '--help'], capture_output=True).returncode == 0
    except OSError:
        return bool(MODULES)  # the module brings it


# Versions before `llm-train verify` have only the step.
if can_verify():
    @rfm.simple_test
    class VerifyTest(LlmTrain):
        """Every op and a loss curve, against loops in f64: `llm-train verify`."""
        tags = {'1node', 'verification'}
        ranks_per_node = 1

        @run_before('run')
        def set_job(self):
            self.shape(1)
            self.executable_opts = ['verify']

        @sanity_function
        def the_losses_are_right(self):
            return sn.assert_found(r'VERIFICATION: PASS', self.stdout)
