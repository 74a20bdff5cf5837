/* A stand-in for NVIDIA's management library: the symbols that nvidia-ml-py calls, answered from a text file.
 *
 * GPULAB_NVML_STANDIN names the file; it is read again on each start, so that a test can change the hardware meanwhile:
 *
 *     start <error>                                        what nvmlInit answers
 *     shutdown <error>                                     what nvmlShutdown answers
 *     gpu <uuid> <bytes> <error> <memory error> <name...>  one GPU; <error> is what each question about it answers
 *
 * Errors are NVML's numbers; 0 is success. Without the file there are no GPUs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };
enum { MOST_GPUS = 16 };

typedef struct {
    char uuid[96];
    char name[96];
    unsigned long long bytes;
    int error;
    int memory_error;
} Gpu;

typedef struct {
    unsigned long long total, free, used;
} Memory;

static Gpu gpus[MOST_GPUS];
static unsigned int count;
static int start_error, shutdown_error;
static int sessions;

static void read_state(void) {
    const char *path = getenv("GPULAB_NVML_STANDIN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];

    count = 0;
    start_error = shutdown_error = SUCCESS;
    while (file && fgets(line, sizeof line, file)) {
        Gpu gpu;
        sscanf(line, "start %d", &start_error);
        sscanf(line, "shutdown %d", &shutdown_error);
        if (count < MOST_GPUS && sscanf(line, "gpu %95s %llu %d %d %95[^\n]", gpu.uuid, &gpu.bytes, &gpu.error,
                                        &gpu.memory_error, gpu.name) == 5)
            gpus[count++] = gpu;
    }
    if (file)
        fclose(file);
}

/* Sessions begun and not ended, for the test that none is left behind. */
int standin_sessions(void) { return sessions; }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    read_state();
    if (start_error == SUCCESS)
        sessions++;
    return start_error;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    if (sessions == 0)
        return UNINITIALIZED;
    sessions--;
    return shutdown_error;
}

static int copied(char *to, unsigned int length, const char *from) {
    if (strlen(from) + 1 > length)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

static int asked(const Gpu *gpu) {
    if (sessions == 0)
        return UNINITIALIZED;
    return gpu->error;
}

int nvmlDeviceGetCount_v2(unsigned int *answer) {
    if (sessions == 0)
        return UNINITIALIZED;
    *answer = count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu **answer) {
    if (index >= count)
        return INVALID_ARGUMENT;
    *answer = &gpus[index];
    return asked(*answer);
}

int nvmlDeviceGetUUID(Gpu *gpu, char *to, unsigned int length) {
    int error = asked(gpu);
    return error ? error : copied(to, length, gpu->uuid);
}

int nvmlDeviceGetName(Gpu *gpu, char *to, unsigned int length) {
    int error = asked(gpu);
    return error ? error : copied(to, length, gpu->name);
}

int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *answer) {
    int error = asked(gpu);
    if (error || (error = gpu->memory_error))
        return error;
    answer->total = gpu->bytes;
    answer->free = gpu->bytes;
    answer->used = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int error) {
    (void)error;
    return "answered by the stand-in";
}
