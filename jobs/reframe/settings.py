# A site configuration to begin with: one Slurm partition, tried with the two virtual nodes of scripts/slurm-here.sh.
site_configuration = {
    'systems': [
        {
            'name': 'here',
            'hostnames': ['.*'],
            # 'modules_system': 'lmod',  # for LLM_TRAIN_MODULE
            'partitions': [
                {
                    'name': 'cpu',
                    'scheduler': 'squeue',  # 'slurm' where there is accounting
                    'launcher': 'srun',
                    'environs': ['builtin'],
                    'access': [],  # such as ['--account=…', '--partition=…', '--qos=…']
                },
            ],
        },
    ],
    # The environment `builtin` is ReFrame's own: what is loaded when it starts.
}
