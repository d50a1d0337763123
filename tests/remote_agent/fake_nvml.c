/* A driver library with two GPUs and fixed values, for tests of the whole path without a GPU.
 *
 * GPU 0 supports everything, and the process that started the caller holds memory on it.
 * GPU 1 supports what cannot be left out, and nothing else.
 * While the file named by FAKE_NVML_WEDGED exists, initialising and counting never return.
 * While the file named by FAKE_NVML_LOST exists, asking for a GPU says that it fell off the bus.
 */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MIB = 1 << 20 };

typedef unsigned long long u64;
typedef struct { unsigned index; } *device_t;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; u64 used_memory; unsigned gpu_instance, compute_instance; } process_t;

static struct { unsigned index; } devices[2] = {{0}, {1}};

static int told_by(const char *variable)
{
    const char *path = getenv(variable);
    return path && access(path, F_OK) == 0;
}

static void hang_if_wedged(void)
{
    while (told_by("FAKE_NVML_WEDGED"))
        for (;;)
            pause();
}

static int only_gpu_0(device_t device) { return device->index ? NOT_SUPPORTED : OK; }

int nvmlInitWithFlags(unsigned flags) { hang_if_wedged(); return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) { hang_if_wedged(); *count = 2; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device)
{
    if (told_by("FAKE_NVML_LOST"))
        return GPU_IS_LOST;
    *device = (device_t)&devices[index];
    return OK;
}

int nvmlDeviceGetUUID(device_t device, char *text, unsigned size)
{
    snprintf(text, size, "GPU-fake-%u", device->index);
    return OK;
}

int nvmlDeviceGetName(device_t device, char *text, unsigned size)
{
    snprintf(text, size, "Fake %u", device->index);
    return OK;
}

int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory)
{
    *memory = (memory_t){1000 * (u64)MIB, 600 * (u64)MIB, 400 * (u64)MIB};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory)
{
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

int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, process_t *processes)
{
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
