/* Runs the steps of a C file that IndyGRU.to_c wrote. stdin: the first states, then the inputs of each step; with an
 * argument, states before the inputs of every step. stdout: the states after each step. FILE_NAME is the file, and
 * NUMBER is the type of its states. */
#include <stdio.h>
#include FILE_NAME

int main(int n_arguments, char **arguments)
{
    static NUMBER h[MODEL_STATE_SIZE], x[MODEL_INPUT_SIZE];
    int with_states = 1;
    (void)arguments;
    for (;;) {
        if (with_states && fread(h, sizeof h, 1, stdin) != 1)
            return n_arguments > 1 ? 0 : 1;
        with_states = n_arguments > 1;
        if (fread(x, sizeof x, 1, stdin) != 1)
            return 0;
        model_step(x, h);
        if (model_output(h) + MODEL_OUTPUT_SIZE != h + MODEL_STATE_SIZE || fwrite(h, sizeof h, 1, stdout) != 1)
            return 1;
    }
}
