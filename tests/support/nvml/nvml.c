/* A stand-in for NVIDIA's management library: the symbols that nvidia-ml-py calls, answered from a text file.
 *
 * GPULAB_NVML_STANDIN names the file; without it, it is `hardware.txt` beside the library. It is read again on each question, so
 * that a test can change the hardware under a process that runs: write a new file and rename it, so that none is read half.
 *
 *     start <error>                                        what nvmlInit answers
 *     shutdown <error>                                     what nvmlShutdown answers
 *     gpu <uuid> <bytes> <error> <memory error> <name...>  one GPU; <error> is what each question about it answers
 *     mig <uuid of the card> <uuid> <bytes> <GPU instance> <compute instance> <name...>
 *                                                          a MIG instance of it
 *     mode <uuid> <0|1>                                    MIG off or on; without this line the card does not know MIG
 *     now <uuid> <percent> <bytes used> <celsius> <uncorrected> <rows pending> <rows failed> <pages pending>
 *                                                          what it does and has; -1 is "not supported"
 *     process <uuid> <pid> <bytes> <compute|mps>           a process on it; -1 bytes are "not available"
 *     uses <uuid> <pid> <percent>                          one sample of what a process uses; without any, the card cannot tell
 *     fail <uuid> <question> <error>                       what one question about it answers: utilisation, temperature,
 *                                                          processes, uses, ecc, rows, mode, events, topology or remote (ends of
 *                                                          links)
 *     xid <uuid> <code> <GPU instance> <compute instance>  one more error that the driver reports; -1 for the whole card.
 *                                                          Lines are only ever added: the first ones were reported before
 *     ancestor <uuid> <uuid> <level>                       where two GPUs meet on PCIe; across processors without this line
 *     nvlink <uuid> <uuid> <links>                         active links between two GPUs
 *     nvswitch <uuid> <links>                              active links of a GPU to a switch
 *
 * Errors are NVML's numbers; 0 is success. Without the file there are no GPUs. Places in the file are the handles, so a GPU is
 * taken away by its <error>, not by leaving out its line while it is being asked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10
};
enum { MOST_GPUS = 16, MOST_INSTANCES = 7, MOST_UNITS = MOST_GPUS * (1 + MOST_INSTANCES) };
enum { MOST_PROCESSES = 8, MOST_LINKS = 18, MOST_PAIRS = MOST_GPUS * MOST_GPUS, MOST_XIDS = 256, MOST_SETS = 8 };
enum { ACROSS = 50, REMOTE_GPU = 0, REMOTE_SWITCH = 2, XID_EVENT = 8, NVLINK_CAPABILITY = 2, P2P_OK = 0, P2P_NOT_SUPPORTED = 5 };
enum question { UTILISATION, TEMPERATURE, PROCESSES, USES, ECC, ROWS, MODE, EVENTS, TOPOLOGY, REMOTE, QUESTIONS };
static const char *const question_names[] = {
    "utilisation", "temperature", "processes", "uses", "ecc", "rows", "mode", "events", "topology", "remote"
};

typedef struct Unit {
    char uuid[96], name[96];
    unsigned long long bytes;
    int error, memory_error, fails[QUESTIONS];
    int percent, celsius, rows_pending, rows_failed, pages_pending, mode;
    long long used, uncorrected;
    int processes;
    struct { unsigned int pid; long long bytes; int mps; } process[MOST_PROCESSES];
    int samples;
    struct { unsigned int pid, percent; } sample[MOST_PROCESSES];
    struct Unit *card;
    int gpu_instance, compute_instance;
    int switch_links;
} Unit;

typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int pid; unsigned long long bytes; unsigned int gpu_instance, compute_instance; } Process;
typedef struct { unsigned int pid; unsigned long long at; unsigned int compute, memory, encoder, decoder; } Use;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char text[32];
} Pci;
typedef struct { unsigned int version, sensor; int celsius; } Temperature;
typedef struct { Unit *device; unsigned long long type, data; unsigned int gpu_instance, compute_instance; } Event;
typedef struct { Unit *one, *other; int value; } Pair;
typedef struct { int used, next; Unit *watched[MOST_GPUS]; int count; } Set;

static Unit units[MOST_UNITS];
static unsigned int count, instances;
static Pair ancestors[MOST_PAIRS], nvlinks[MOST_PAIRS];
static int ancestor_count, nvlink_count;
static struct { Unit *card; int code, gpu_instance, compute_instance; } xids[MOST_XIDS];
static int xid_count;
static Set sets[MOST_SETS];
static int start_error, shutdown_error, sessions;
/* Python lets other threads run while it calls in here. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static Unit *by_uuid(const char *uuid) {
    for (unsigned int i = 0; i < count; i++)
        if (strcmp(units[i].uuid, uuid) == 0)
            return &units[i];
    for (unsigned int i = MOST_GPUS; i < MOST_GPUS + instances; i++)
        if (strcmp(units[i].uuid, uuid) == 0)
            return &units[i];
    return NULL;
}

static void begin_unit(Unit *unit) {
    memset(unit, 0, sizeof *unit);
    unit->percent = unit->celsius = unit->rows_pending = unit->rows_failed = unit->pages_pending = unit->mode = -1;
    unit->uncorrected = unit->gpu_instance = unit->compute_instance = -1;
}

static void read_hardware(const char *line) {
    Unit new;
    char card[96];

    begin_unit(&new);
    if (count < MOST_GPUS && sscanf(line, "gpu %95s %llu %d %d %95[^\n]", new.uuid, &new.bytes, &new.error, &new.memory_error,
                                    new.name) == 5)
        units[count++] = new;
    if (instances < MOST_UNITS - MOST_GPUS && sscanf(line, "mig %95s %95s %llu %d %d %95[^\n]", card, new.uuid, &new.bytes,
                                                     &new.gpu_instance, &new.compute_instance, new.name) == 6) {
        new.card = by_uuid(card);
        units[MOST_GPUS + instances++] = new;
    }
}

static void read_doings(const char *line) {
    char uuid[96], word[32];
    Unit now, *unit;
    unsigned int pid;
    long long bytes;
    int error;

    if (sscanf(line, "now %95s %d %lld %d %lld %d %d %d", uuid, &now.percent, &now.used, &now.celsius, &now.uncorrected,
               &now.rows_pending, &now.rows_failed, &now.pages_pending) == 8 && (unit = by_uuid(uuid))) {
        unit->percent = now.percent;
        unit->used = now.used;
        unit->celsius = now.celsius;
        unit->uncorrected = now.uncorrected;
        unit->rows_pending = now.rows_pending;
        unit->rows_failed = now.rows_failed;
        unit->pages_pending = now.pages_pending;
    }
    if (sscanf(line, "mode %95s %d", uuid, &now.mode) == 2 && (unit = by_uuid(uuid)))
        unit->mode = now.mode;
    if (sscanf(line, "process %95s %u %lld %31s", uuid, &pid, &bytes, word) == 4 && (unit = by_uuid(uuid)) &&
        unit->processes < MOST_PROCESSES) {
        unit->process[unit->processes].pid = pid;
        unit->process[unit->processes].bytes = bytes;
        unit->process[unit->processes++].mps = strcmp(word, "mps") == 0;
    }
    if (sscanf(line, "uses %95s %u %d", uuid, &pid, &error) == 3 && (unit = by_uuid(uuid)) && unit->samples < MOST_PROCESSES) {
        unit->sample[unit->samples].pid = pid;
        unit->sample[unit->samples++].percent = (unsigned int)error;
    }
    if (sscanf(line, "fail %95s %31s %d", uuid, word, &error) == 3 && (unit = by_uuid(uuid)))
        for (int i = 0; i < QUESTIONS; i++)
            if (strcmp(word, question_names[i]) == 0)
                unit->fails[i] = error;
}

static void read_events_and_links(const char *line) {
    char uuid[96], other[96];
    int value, gpu_instance, compute_instance;

    if (xid_count < MOST_XIDS && sscanf(line, "xid %95s %d %d %d", uuid, &value, &gpu_instance, &compute_instance) == 4) {
        xids[xid_count].card = by_uuid(uuid);
        xids[xid_count].code = value;
        xids[xid_count].gpu_instance = gpu_instance;
        xids[xid_count++].compute_instance = compute_instance;
    }
    if (ancestor_count < MOST_PAIRS && sscanf(line, "ancestor %95s %95s %d", uuid, other, &value) == 3)
        ancestors[ancestor_count++] = (Pair){by_uuid(uuid), by_uuid(other), value};
    if (nvlink_count < MOST_PAIRS && sscanf(line, "nvlink %95s %95s %d", uuid, other, &value) == 3)
        nvlinks[nvlink_count++] = (Pair){by_uuid(uuid), by_uuid(other), value};
    if (sscanf(line, "nvswitch %95s %d", uuid, &value) == 2 && by_uuid(uuid))
        by_uuid(uuid)->switch_links = value;
}

static FILE *open_state(void) {
    const char *path = getenv("GPULAB_NVML_STANDIN");
    char beside[4096] = "";
    char *slash;
    Dl_info info;

    if (path == NULL && dladdr((void *)open_state, &info) && info.dli_fname) {
        snprintf(beside, sizeof beside - sizeof "hardware.txt", "%s", info.dli_fname);
        if ((slash = strrchr(beside, '/'))) {
            strcpy(slash + 1, "hardware.txt");
            path = beside;
        }
    }
    return path ? fopen(path, "r") : NULL;
}

static void read_state(void) {
    FILE *file = open_state();
    char line[512];

    count = instances = 0;
    ancestor_count = nvlink_count = xid_count = 0;
    start_error = shutdown_error = SUCCESS;
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "start %d", &start_error);
        sscanf(line, "shutdown %d", &shutdown_error);
        read_hardware(line);
        read_doings(line);
        read_events_and_links(line);
    }
    if (file)
        fclose(file);
}

/* Each question is enclosed by these two; what `asked` answers is what the GPU has to say to any question. */
static int asked(const Unit *unit, int question) {
    pthread_mutex_lock(&lock);
    read_state();
    if (sessions == 0)
        return UNINITIALIZED;
    if (unit == NULL)
        return SUCCESS;
    /* A card that is gone takes its instances with it. */
    if (unit->error || (unit->card && unit->card->error))
        return unit->error ? unit->error : unit->card->error;
    return question < QUESTIONS ? unit->fails[question] : SUCCESS;
}

static int answered(int error) {
    pthread_mutex_unlock(&lock);
    return error;
}

static int told(const Unit *unit, int question, long long value, unsigned int *answer) {
    int error = asked(unit, question);

    if (error == SUCCESS && value < 0)
        error = NOT_SUPPORTED;
    if (error == SUCCESS)
        *answer = (unsigned int)value;
    return answered(error);
}

static int copied(char *to, unsigned int length, const char *from) {
    if (strlen(from) + 1 > length)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

/* Sessions begun and not ended, for the test that none is left behind. */
int standin_sessions(void) { return sessions; }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    asked(NULL, QUESTIONS);
    if (start_error == SUCCESS)
        sessions++;
    return answered(start_error);
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    int error = asked(NULL, QUESTIONS);

    if (error == SUCCESS) {
        sessions--;
        error = shutdown_error;
    }
    return answered(error);
}

/* Cards and what they are */

int nvmlDeviceGetCount_v2(unsigned int *answer) {
    int error = asked(NULL, QUESTIONS);

    *answer = count;
    return answered(error);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Unit **answer) {
    int error;

    if (index >= MOST_GPUS)
        return INVALID_ARGUMENT;
    *answer = &units[index];
    error = asked(*answer, QUESTIONS);
    return answered(index < count ? error : INVALID_ARGUMENT);
}

int nvmlDeviceGetUUID(Unit *unit, char *to, unsigned int length) {
    int error = asked(unit, QUESTIONS);

    return answered(error ? error : copied(to, length, unit->uuid));
}

int nvmlDeviceGetName(Unit *unit, char *to, unsigned int length) {
    int error = asked(unit, QUESTIONS);

    return answered(error ? error : copied(to, length, unit->name));
}

int nvmlDeviceGetMemoryInfo(Unit *unit, Memory *answer) {
    int error = asked(unit, QUESTIONS);

    if (error == SUCCESS)
        error = unit->memory_error;
    answer->total = unit->bytes;
    answer->free = unit->bytes - unit->used;
    answer->used = unit->used;
    return answered(error);
}

/* MIG */

static Unit *instance_of(const Unit *card, unsigned int number) {
    for (unsigned int i = MOST_GPUS; i < MOST_GPUS + instances; i++)
        if (units[i].card == card && number-- == 0)
            return &units[i];
    return NULL;
}

int nvmlDeviceGetMigMode(Unit *unit, unsigned int *current, unsigned int *pending) {
    int error = asked(unit, MODE);

    if (error == SUCCESS && unit->mode < 0)
        error = NOT_SUPPORTED;
    *current = *pending = unit->mode == 1;
    return answered(error);
}

int nvmlDeviceGetMaxMigDeviceCount(Unit *unit, unsigned int *answer) {
    *answer = MOST_INSTANCES;
    return answered(asked(unit, QUESTIONS));
}

int nvmlDeviceGetMigDeviceHandleByIndex(Unit *unit, unsigned int number, Unit **answer) {
    int error = asked(unit, QUESTIONS);

    *answer = instance_of(unit, number);
    return answered(error ? error : *answer ? SUCCESS : NOT_FOUND);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Unit *unit, Unit **answer) {
    int error = asked(unit, QUESTIONS);

    *answer = unit->card;
    return answered(error ? error : *answer ? SUCCESS : INVALID_ARGUMENT);
}

int nvmlDeviceGetGpuInstanceId(Unit *unit, unsigned int *answer) { return told(unit, QUESTIONS, unit->gpu_instance, answer); }

int nvmlDeviceGetComputeInstanceId(Unit *unit, unsigned int *answer) {
    return told(unit, QUESTIONS, unit->compute_instance, answer);
}

/* What they do */

int nvmlDeviceGetUtilizationRates(Unit *unit, Utilization *answer) {
    answer->memory = 0;
    asked(unit, QUESTIONS);
    answered(SUCCESS);
    /* As NVIDIA's driver does: neither an instance nor a card that is split tells its utilisation. */
    return told(unit, UTILISATION, unit->card || unit->mode == 1 ? -1 : unit->percent, &answer->gpu);
}

int nvmlDeviceGetTemperature(Unit *unit, int sensor, unsigned int *answer) {
    (void)sensor;
    asked(unit, QUESTIONS);
    answered(SUCCESS);
    return told(unit, TEMPERATURE, unit->celsius, answer);
}

/* The newer question; it is not among those that can be made to fail. */
int nvmlDeviceGetTemperatureV(Unit *unit, Temperature *answer) {
    int error = asked(unit, QUESTIONS);

    if (error == SUCCESS && unit->celsius < 0)
        error = NOT_SUPPORTED;
    answer->celsius = unit->celsius;
    return answered(error);
}

static int running(Unit *unit, int mps, unsigned int *length, Process *to) {
    int error = asked(unit, PROCESSES);
    unsigned int room = *length, found = 0;

    for (int i = 0; error == SUCCESS && i < unit->processes; i++) {
        if (unit->process[i].mps != mps)
            continue;
        if (to && found < room) {
            to[found].pid = unit->process[i].pid;
            to[found].bytes = (unsigned long long)unit->process[i].bytes;
            to[found].gpu_instance = to[found].compute_instance = 0xFFFFFFFF;
        }
        found++;
    }
    *length = found;
    return answered(error ? error : found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Unit *unit, unsigned int *length, Process *to) { return running(unit, 0, length, to); }

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Unit *unit, unsigned int *length, Process *to) {
    return running(unit, 1, length, to);
}

int nvmlDeviceGetProcessUtilization(Unit *unit, Use *to, unsigned int *length, unsigned long long since) {
    int error = asked(unit, USES);
    unsigned int room = *length;

    if (error == SUCCESS && (unit->samples == 0 || since != 0))
        error = NOT_SUPPORTED;
    for (int i = 0; error == SUCCESS && to && i < unit->samples && (unsigned int)i < room; i++)
        to[i] = (Use){unit->sample[i].pid, 1, unit->sample[i].percent, 0, 0, 0};
    *length = (unsigned int)unit->samples;
    return answered(error ? error : to == NULL || *length > room ? INSUFFICIENT_SIZE : SUCCESS);
}

/* How they are */

int nvmlDeviceGetTotalEccErrors(Unit *unit, int kind, int counter, unsigned long long *answer) {
    int error = asked(unit, ECC);

    (void)counter;
    *answer = kind == 1 ? (unsigned long long)unit->uncorrected : 0;
    return answered(error ? error : unit->uncorrected < 0 ? NOT_SUPPORTED : SUCCESS);
}

int nvmlDeviceGetRemappedRows(Unit *unit, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending,
                              unsigned int *failed) {
    int error = asked(unit, ROWS);

    *corrected = *uncorrected = 0;
    *pending = unit->rows_pending > 0;
    *failed = unit->rows_failed > 0;
    return answered(error ? error : unit->rows_pending < 0 ? NOT_SUPPORTED : SUCCESS);
}

int nvmlDeviceGetRetiredPagesPendingStatus(Unit *unit, unsigned int *answer) {
    asked(unit, QUESTIONS);
    answered(SUCCESS);
    return told(unit, ROWS, unit->pages_pending, answer);
}

/* What the driver reports by itself */

int nvmlDeviceGetSupportedEventTypes(Unit *unit, unsigned long long *answer) {
    *answer = XID_EVENT;
    return answered(asked(unit, EVENTS));
}

int nvmlEventSetCreate(Set **answer) {
    int error = asked(NULL, QUESTIONS);

    for (int i = 0; error == SUCCESS && i < MOST_SETS; i++)
        if (!sets[i].used) {
            sets[i] = (Set){.used = 1, .next = xid_count};
            *answer = &sets[i];
            return answered(SUCCESS);
        }
    return answered(error ? error : INSUFFICIENT_SIZE);
}

int nvmlDeviceRegisterEvents(Unit *unit, unsigned long long types, Set *set) {
    int error = asked(unit, EVENTS);

    if (error == SUCCESS && types == XID_EVENT && !unit->card)
        set->watched[set->count++] = unit;
    else if (error == SUCCESS)
        error = NOT_SUPPORTED;
    return answered(error);
}

int nvmlEventSetFree(Set *set) {
    int error = asked(NULL, QUESTIONS);

    set->used = 0;
    return answered(error);
}

/* One event that nobody was told yet, under the lock. */
static int next_event(Set *set, Event *answer) {
    while (set->next < xid_count) {
        int at = set->next++;
        for (int i = 0; i < set->count; i++)
            if (set->watched[i] == xids[at].card) {
                *answer = (Event){xids[at].card, XID_EVENT, (unsigned long long)xids[at].code,
                                  (unsigned int)xids[at].gpu_instance, (unsigned int)xids[at].compute_instance};
                return 1;
            }
    }
    return 0;
}

int nvmlEventSetWait_v2(Set *set, Event *answer, unsigned int milliseconds) {
    const struct timespec pause = {.tv_nsec = 5000000};

    for (unsigned int waited = 0;; waited += 5) {
        int error = asked(NULL, QUESTIONS);
        if (error == SUCCESS)
            error = start_error;
        if (error || next_event(set, answer))
            return answered(error);
        answered(SUCCESS);
        if (waited >= milliseconds)
            return TIMEOUT;
        nanosleep(&pause, NULL);
    }
}

/* How close they are */

static int linked(const Pair *pairs, int length, const Unit *one, const Unit *other, int otherwise) {
    for (int i = 0; i < length; i++)
        if ((pairs[i].one == one && pairs[i].other == other) || (pairs[i].one == other && pairs[i].other == one))
            return pairs[i].value;
    return otherwise;
}

int nvmlDeviceGetTopologyCommonAncestor(Unit *one, Unit *other, int *answer) {
    int error = asked(one, TOPOLOGY);

    *answer = linked(ancestors, ancestor_count, one, other, ACROSS);
    return answered(error ? error : other->fails[TOPOLOGY] ? other->fails[TOPOLOGY] : other->error);
}

/* The other end of a link, under the lock: the GPU itself stands for a switch, NULL for none. Those to GPUs come first. */
static Unit *link_end(Unit *unit, unsigned int link) {
    unsigned int passed = 0;

    for (unsigned int i = 0; i < count; i++) {
        passed += (unsigned int)linked(nvlinks, nvlink_count, unit, &units[i], 0);
        if (link < passed)
            return &units[i];
    }
    return link < passed + (unsigned int)unit->switch_links ? unit : NULL;
}

int nvmlDeviceGetNvLinkState(Unit *unit, unsigned int link, unsigned int *answer) {
    int error = asked(unit, TOPOLOGY);

    *answer = link_end(unit, link) != NULL;
    /* Only a card that has any knows the question. */
    return answered(error ? error : link >= MOST_LINKS ? INVALID_ARGUMENT : link_end(unit, 0) ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Unit *unit, unsigned int link, unsigned int *answer) {
    int error = asked(unit, REMOTE);

    *answer = link_end(unit, link) == unit ? REMOTE_SWITCH : REMOTE_GPU;
    return answered(error);
}

int nvmlDeviceGetP2PStatus(Unit *one, Unit *other, int kind, int *answer) {
    int error = asked(one, TOPOLOGY);
    int linked_up = (one->switch_links && other->switch_links) || linked(nvlinks, nvlink_count, one, other, 0);

    *answer = kind == NVLINK_CAPABILITY && linked_up ? P2P_OK : P2P_NOT_SUPPORTED;
    return answered(error);
}

static void place(const Unit *unit, Pci *answer) {
    memset(answer, 0, sizeof *answer);
    answer->bus = (unsigned int)(unit - units) + 1;
    snprintf(answer->text, sizeof answer->text, "%08X:%02X:%02X.0", 0, answer->bus, 0);
}

int nvmlDeviceGetPciInfo_v3(Unit *unit, Pci *answer) {
    int error = asked(unit, QUESTIONS);

    place(unit, answer);
    return answered(error);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Unit *unit, unsigned int link, Pci *answer) {
    int error = asked(unit, REMOTE);
    Unit *end = link_end(unit, link);

    if (end)
        place(end, answer);
    return answered(error ? error : end ? SUCCESS : NOT_SUPPORTED);
}

const char *nvmlErrorString(int error) {
    (void)error;
    return "answered by the stand-in";
}
