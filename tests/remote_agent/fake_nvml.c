/* A driver library with GPUs and fixed values, for tests of the whole path without a GPU.
 *
 * Two of them, unless the file named by FAKE_NVML_BOX says otherwise:
 *   GPU 0 supports everything, and the process that started the caller holds memory on it.
 *   GPU 1 supports what cannot be left out, and nothing else.
 * The lines of that file, which is read at each call (MiB; GPUs and slices count from 0):
 *   gpu TOTAL USED DIVIDED NAME          DIVIDED: 1 when it has slices (MIG)
 *   slice GPU TOTAL USED NAME
 *   process GPU SLICE PID USED KIND      SLICE: -1 on the whole GPU; KIND: C computes, G draws
 *   near GPU GPU LEVEL                   LEVEL: 1 by NVLink, else of NVML's topology; 50 if not said
 * While the file named by FAKE_NVML_WEDGED exists, initialising and counting do not return.
 * While the file named by FAKE_NVML_LOST exists, asking for a GPU says that it fell off the bus.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MIB = 1 << 20, MOST_GPUS = 16, MOST_SLICES = 8, MOST_LINES = 64, WHOLE = -1 };

typedef unsigned long long u64;
typedef struct { unsigned index; int slice; } *device_t;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; u64 used_memory; unsigned gpu_instance, compute_instance; } process_t;

struct unit { u64 total, used; int divided; char name[96]; };
struct holder { unsigned gpu; int slice; unsigned pid; u64 used; char kind; };

static struct {
    unsigned gpus, slices[MOST_GPUS], holders;
    struct unit gpu[MOST_GPUS], slice[MOST_GPUS][MOST_SLICES];
    struct holder holder[MOST_LINES];
    int level[MOST_GPUS][MOST_GPUS];
} box;

/* What a handle points to lies behind what its index says: wholes first, then slices. */
static struct { unsigned index; int slice; } devices[MOST_GPUS][1 + MOST_SLICES];

static int told_by(const char *variable)
{
    const char *path = getenv(variable);
    return path && access(path, F_OK) == 0;
}

static void read_line(const char *line)
{
    struct unit unit = {0};
    struct holder holder;
    unsigned gpu, other;
    int level;
    if (sscanf(line, "gpu %llu %llu %d %95[^\n]", &unit.total, &unit.used, &unit.divided, unit.name) == 4)
        box.gpu[box.gpus++] = unit;
    else if (sscanf(line, "slice %u %llu %llu %95[^\n]", &gpu, &unit.total, &unit.used, unit.name) == 4)
        box.slice[gpu][box.slices[gpu]++] = unit;
    else if (sscanf(line, "process %u %d %u %llu %c", &holder.gpu, &holder.slice, &holder.pid,
                    &holder.used, &holder.kind) == 5)
        box.holder[box.holders++] = holder;
    else if (sscanf(line, "near %u %u %d", &gpu, &other, &level) == 3)
        box.level[gpu][other] = box.level[other][gpu] = level;
}

/* Whether there is a box file; it is read anew, so that a test may change it. */
static int look(void)
{
    const char *path = getenv("FAKE_NVML_BOX");
    char line[256];
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    memset(&box, 0, sizeof box);
    while (fgets(line, sizeof line, file))
        read_line(line);
    fclose(file);
    return 1;
}

static struct unit *unit_of(device_t device)
{
    if (!look())
        return NULL;
    return device->slice == WHOLE ? &box.gpu[device->index] : &box.slice[device->index][device->slice];
}

static device_t handle_of(unsigned index, int slice)
{
    devices[index][1 + slice].index = index;
    devices[index][1 + slice].slice = slice;
    return (device_t)&devices[index][1 + slice];
}

static void hang_if_wedged(void)
{
    while (told_by("FAKE_NVML_WEDGED"))
        usleep(5000);
}

static int only_gpu_0(device_t device) { return device->index ? NOT_SUPPORTED : OK; }

int nvmlInitWithFlags(unsigned flags) { hang_if_wedged(); return OK; }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    hang_if_wedged();
    *count = look() ? box.gpus : 2;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device)
{
    if (told_by("FAKE_NVML_LOST"))
        return GPU_IS_LOST;
    *device = handle_of(index, WHOLE);
    return OK;
}

int nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending)
{
    struct unit *unit = unit_of(device);
    if (!unit)
        return NOT_SUPPORTED;
    *current = *pending = unit->divided;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned *count)
{
    *count = MOST_SLICES;
    return OK;
}

/* As a driver may, it leaves a gap before the first slice. */
int nvmlDeviceGetMigDeviceHandleByIndex(device_t device, unsigned number, device_t *slice)
{
    if (!look() || number == 0 || number > box.slices[device->index])
        return NOT_FOUND;
    *slice = handle_of(device->index, (int)number - 1);
    return OK;
}

int nvmlDeviceGetP2PStatus(device_t one, device_t two, int capability, int *status)
{
    if (!look())
        return NOT_SUPPORTED;
    *status = box.level[one->index][two->index] == 1 ? 0 : 1;
    return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(device_t one, device_t two, int *level)
{
    if (!look())
        return NOT_SUPPORTED;
    *level = box.level[one->index][two->index];
    *level = *level ? *level : 50;
    return OK;
}

int nvmlDeviceGetUUID(device_t device, char *text, unsigned size)
{
    if (device->slice == WHOLE)
        snprintf(text, size, "GPU-fake-%u", device->index);
    else
        snprintf(text, size, "MIG-fake-%u-%d", device->index, device->slice);
    return OK;
}

int nvmlDeviceGetName(device_t device, char *text, unsigned size)
{
    struct unit *unit = unit_of(device);
    if (unit)
        snprintf(text, size, "%s", unit->name);
    else
        snprintf(text, size, "Fake %u", device->index);
    return OK;
}

int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory)
{
    struct unit *unit = unit_of(device);
    if (unit)
        *memory = (memory_t){unit->total * MIB, (unit->total - unit->used) * MIB, unit->used * MIB};
    else
        *memory = (memory_t){1000 * (u64)MIB, 600 * (u64)MIB, 400 * (u64)MIB};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory)
{
    if (unit_of(device))
        return NOT_SUPPORTED;
    memory->total = 1000 * (u64)MIB;
    memory->used = 300 * (u64)MIB;
    return only_gpu_0(device);
}

int nvmlDeviceGetUtilizationRates(device_t device, utilization_t *rates)
{
    *rates = (utilization_t){87, 12};
    return only_gpu_0(device);
}

int nvmlDeviceGetTemperature(device_t device, int sensor, unsigned *celsius)
{
    *celsius = 61;
    return only_gpu_0(device);
}

int nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts)
{
    *milliwatts = 250500;
    return only_gpu_0(device);
}

int nvmlDeviceGetEnforcedPowerLimit(device_t device, unsigned *milliwatts)
{
    *milliwatts = 300000;
    return only_gpu_0(device);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, u64 *reasons)
{
    *reasons = 0x1 | 0x4 | 0x40; /* idle, power cap, hardware thermal slowdown */
    return only_gpu_0(device);
}

static int holders_of(device_t device, char kind, unsigned *count, process_t *processes)
{
    unsigned room = *count;
    *count = 0;
    for (unsigned i = 0; i < box.holders; i++) {
        struct holder *holder = &box.holder[i];
        if (holder->gpu != device->index || holder->slice != device->slice || holder->kind != kind)
            continue;
        if (*count < room)
            processes[*count] = (process_t){holder->pid, holder->used * MIB, 0, 0};
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, process_t *processes)
{
    if (look())
        return holders_of(device, 'C', count, processes);
    if (device->index) {
        *count = 0;
        return OK;
    }
    unsigned room = *count;
    *count = 2;
    if (room < 2)
        return INSUFFICIENT_SIZE;
    processes[0] = (process_t){(unsigned)getppid(), 123 * (u64)MIB, 0, 0};
    processes[1] = (process_t){0x7ffffff0, ~0ULL, 0, 0}; /* ended meanwhile, memory unknown */
    return OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t device, unsigned *count, process_t *processes)
{
    *count = look() ? *count : 0;
    return look() ? holders_of(device, 'G', count, processes) : OK;
}
