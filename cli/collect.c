/* See collect.h. */
#include "cli/collect.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"
#include "export/read.h"
#include "export/recover.h"

#define GENERATIONS 64 /* parents followed upwards; more would be a circle of reused process ids */

typedef struct ms_entry {
    char *name;
    ino_t inode;
    off_t bytes;
    struct timespec changed;
} ms_entry_t;

struct ms_listing {
    ms_entry_t *entries; /* by name */
    size_t count, capacity;
};

/* ---- listings ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const ms_entry_t *)a)->name, ((const ms_entry_t *)b)->name);
}

static bool is_snapshot_name(const char *name) {
    static const char ending[] = ".memscope";
    size_t length = strlen(name);
    return length > sizeof ending - 1 && strcmp(name + length - (sizeof ending - 1), ending) == 0;
}

static void add_entry(ms_listing_t *listing, int directory, const char *name) {
    struct stat status;
    if (!is_snapshot_name(name) || fstatat(directory, name, &status, 0) != 0 || !S_ISREG(status.st_mode)) return;
    if (listing->count == listing->capacity) {
        listing->capacity = listing->capacity == 0 ? 64 : 2 * listing->capacity;
        listing->entries = ms_reallocate(listing->entries, listing->capacity * sizeof *listing->entries);
    }
    listing->entries[listing->count++] =
        (ms_entry_t){ms_format("%s", name), status.st_ino, status.st_size, status.st_mtim};
}

ms_listing_t *ms_listing_take(const char *directory) {
    ms_listing_t *listing = ms_allocate(sizeof *listing);
    DIR *stream = opendir(directory);
    if (stream == NULL) return listing;
    for (const struct dirent *entry; (entry = readdir(stream)) != NULL;)
        add_entry(listing, dirfd(stream), entry->d_name);
    closedir(stream);
    if (listing->count > 0) qsort(listing->entries, listing->count, sizeof *listing->entries, by_name);
    return listing;
}

void ms_listing_free(ms_listing_t *listing) {
    for (size_t i = 0; i < listing->count; i++) free(listing->entries[i].name);
    free(listing->entries);
    free(listing);
}

static bool is_unchanged(const ms_listing_t *before, const ms_entry_t *entry) {
    if (before->count == 0) return false;
    const ms_entry_t *old = bsearch(entry, before->entries, before->count, sizeof *entry, by_name);
    return old != NULL && old->inode == entry->inode && old->bytes == entry->bytes &&
           old->changed.tv_sec == entry->changed.tv_sec && old->changed.tv_nsec == entry->changed.tv_nsec;
}

/* ---- whose ---- */

static bool read_found(const char *path, ms_found_t *found) {
    char error[512];
    ms_snapshot_file_t *file = ms_read_file(path, error, sizeof error);
    if (file == NULL || file->model.process.count == 0) {
        ms_complain("%s%s", file == NULL ? error : path, file == NULL ? "" : ": does not say what process it is of");
        ms_snapshot_file_free(file);
        return false;
    }
    ms_snapshot_recover(file);
    const ms_process_row_t *process = file->model.process.rows;
    const ms_totals_row_t *totals = file->model.totals.rows;
    bool counted = file->model.totals.count > 0;
    *found = (ms_found_t){
        .path = ms_format("%s", path),
        .name = ms_format("%s", process->name != NULL ? process->name : "?"),
        .pid = process->pid,
        .parent_pid = process->parent_pid,
        .allocated_bytes = counted ? totals->allocated_bytes : 0,
        .peak_bytes = counted ? totals->peak_bytes : 0,
        .live_bytes = counted ? totals->live_bytes : 0,
        .stamped = process->exit_status != MS_NULL || process->exit_signal != MS_NULL,
    };
    ms_snapshot_file_free(file);
    return true;
}

/* Another process that runs this very command. */
static bool is_other_run(uint64_t pid) {
    char link[64], own[4096], other[4096];
    if (pid == (uint64_t)getpid()) return false;
    snprintf(link, sizeof link, "/proc/%llu/exe", (unsigned long long)pid);
    ssize_t own_bytes = readlink("/proc/self/exe", own, sizeof own), other_bytes = readlink(link, other, sizeof other);
    return own_bytes > 0 && own_bytes == other_bytes && memcmp(own, other, (size_t)own_bytes) == 0;
}

static const ms_found_t *find_pid(const ms_found_t *found, size_t count, uint64_t pid) {
    for (size_t i = 0; i < count; i++)
        if (found[i].pid == pid) return &found[i];
    return NULL;
}

static bool is_ours(const ms_found_t *found, size_t count, const ms_found_t *one) {
    uint64_t pid = one->pid;
    for (int i = 0; i < GENERATIONS; i++) {
        if (pid == (uint64_t)getpid()) return true;
        const ms_found_t *file = find_pid(found, count, pid);
        if (file == NULL) return !is_other_run(pid);
        if (file->stamped) return false;
        pid = file->parent_pid;
    }
    return true;
}

static int by_weight(const void *a, const void *b, void *context) {
    const ms_found_t *left = a, *right = b;
    uint64_t main_pid = *(const uint64_t *)context;
    if ((left->pid == main_pid) != (right->pid == main_pid)) return left->pid == main_pid ? -1 : 1;
    if (left->allocated_bytes != right->allocated_bytes) return left->allocated_bytes > right->allocated_bytes ? -1 : 1;
    return left->pid < right->pid ? -1 : left->pid > right->pid;
}

static void free_one(ms_found_t *found) {
    free(found->path);
    free(found->name);
}

ms_found_t *ms_collect(const char *directory, const ms_listing_t *before, pid_t main_pid, size_t *count) {
    ms_listing_t *now = ms_listing_take(directory);
    ms_found_t *found = ms_allocate(now->count * sizeof *found);
    bool *ours = ms_allocate(now->count * sizeof *ours);
    uint64_t main_id = (uint64_t)main_pid;
    size_t read = 0, kept = 0;
    for (size_t i = 0; i < now->count; i++) {
        if (is_unchanged(before, &now->entries[i])) continue;
        char *path = ms_format("%s/%s", directory, now->entries[i].name);
        read += read_found(path, &found[read]);
        free(path);
    }
    for (size_t i = 0; i < read; i++) ours[i] = is_ours(found, read, &found[i]);
    for (size_t i = 0; i < read; i++) {
        if (ours[i])
            found[kept++] = found[i];
        else
            free_one(&found[i]);
    }
    if (kept > 0) qsort_r(found, kept, sizeof *found, by_weight, &main_id);
    free(ours);
    ms_listing_free(now);
    *count = kept;
    return found;
}

void ms_found_free(ms_found_t *found, size_t count) {
    for (size_t i = 0; i < count; i++) free_one(&found[i]);
    free(found);
}
