/* The task tree of summary.h. Parents come from a file, so they may be missing, or run in a circle: what no root
 * leads to is counted, not shown. */
#include "cli/summary.h"

#include <stdlib.h>

#include "cli/files.h"
#include "cli/text.h"

#define NO_PARENT SIZE_MAX
#define DEEPEST_INDENT 20

typedef struct ms_node {
    const ms_tasks_row_t *task;
    size_t parent; /* index in nodes, NO_PARENT for a root */
    size_t open_children;
    uint64_t live_with_children; /* the task and what is below it */
} ms_node_t;

typedef struct ms_tree {
    ms_node_t *nodes; /* by id */
    size_t *order;    /* indexes of nodes by parent, then the heaviest first */
    size_t count, shown, top;
    ms_text_table_t *table;
} ms_tree_t;

static int by_id(const void *a, const void *b) {
    uint64_t left = ((const ms_node_t *)a)->task->id, right = ((const ms_node_t *)b)->task->id;
    return left < right ? -1 : left > right;
}

static size_t find_node(const ms_tree_t *tree, uint64_t id) {
    ms_tasks_row_t wanted = {.id = id};
    ms_node_t key = {.task = &wanted};
    const ms_node_t *found = bsearch(&key, tree->nodes, tree->count, sizeof *tree->nodes, by_id);
    return found == NULL ? NO_PARENT : (size_t)(found - tree->nodes);
}

static int by_parent(const void *a, const void *b, void *context) {
    const ms_node_t *nodes = context, *left = &nodes[*(const size_t *)a], *right = &nodes[*(const size_t *)b];
    if (left->parent != right->parent) return left->parent < right->parent ? -1 : 1;
    if (left->live_with_children != right->live_with_children)
        return left->live_with_children > right->live_with_children ? -1 : 1;
    if (left->task->allocated_bytes != right->task->allocated_bytes)
        return left->task->allocated_bytes > right->task->allocated_bytes ? -1 : 1;
    return left->task->id < right->task->id ? -1 : left->task->id > right->task->id;
}

/* Adds each task's live bytes to its parent's, leaves first. A circle has no leaf and is left alone. */
static void add_up(ms_tree_t *tree) {
    size_t *ready = ms_allocate(tree->count * sizeof *ready), ready_count = 0;
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].parent != NO_PARENT) tree->nodes[tree->nodes[i].parent].open_children++;
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].open_children == 0) ready[ready_count++] = i;
    while (ready_count > 0) {
        const ms_node_t *node = &tree->nodes[ready[--ready_count]];
        if (node->parent == NO_PARENT) continue;
        ms_node_t *parent = &tree->nodes[node->parent];
        parent->live_with_children += node->live_with_children;
        if (--parent->open_children == 0) ready[ready_count++] = node->parent;
    }
    free(ready);
}

static void build(ms_tree_t *tree, const ms_model_t *model) {
    tree->count = model->tasks.count;
    tree->nodes = ms_allocate(tree->count * sizeof *tree->nodes);
    tree->order = ms_allocate(tree->count * sizeof *tree->order);
    for (size_t i = 0; i < tree->count; i++) {
        const ms_tasks_row_t *task = &model->tasks.rows[i];
        tree->nodes[i] = (ms_node_t){.task = task, .live_with_children = task->live_bytes};
        tree->order[i] = i;
    }
    qsort(tree->nodes, tree->count, sizeof *tree->nodes, by_id);
    for (size_t i = 0; i < tree->count; i++) {
        uint64_t parent = tree->nodes[i].task->parent;
        tree->nodes[i].parent = parent == MS_NULL ? NO_PARENT : find_node(tree, parent);
    }
    add_up(tree);
    qsort_r(tree->order, tree->count, sizeof *tree->order, by_parent, tree->nodes);
}

static void add_row(ms_tree_t *tree, const ms_node_t *node, size_t depth) {
    const ms_tasks_row_t *task = node->task;
    int indent = (int)(2 * (depth < DEEPEST_INDENT ? depth : DEEPEST_INDENT));
    const char *name = task->name != NULL ? task->name : task->id == 0 ? "(outside any task)" : "?";
    ms_text_table_cell(tree->table, "%*s%s", indent, "", name);
    ms_text_table_cell(tree->table, "%llu", (unsigned long long)task->id);
    ms_text_table_cell(tree->table, "%s", task->state != NULL ? task->state : "?");
    ms_text_table_cell(tree->table, "%s", ms_text_bytes(task->allocated_bytes).text);
    ms_text_table_cell(tree->table, "%s", ms_text_bytes(task->live_bytes).text);
    ms_text_table_cell(tree->table, "%s", ms_text_bytes(node->live_with_children).text);
    ms_text_table_cell(tree->table, "%s", ms_text_bytes(task->peak_bytes).text);
    ms_text_table_cell(tree->table, "%s",
                       task->outlived_bytes == MS_NULL ? "-" : ms_text_bytes(task->outlived_bytes).text);
    ms_text_table_cell(tree->table, "%s", ms_text_bytes(task->handed_off_bytes).text);
}

/* The children of `parent`, each followed by its own. A row is shown before its children, so this nests at most
 * `top` deep. */
static void show_children(ms_tree_t *tree, size_t parent, size_t depth) {
    size_t first = 0, last = tree->count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (tree->nodes[tree->order[middle]].parent < parent)
            first = middle + 1;
        else
            last = middle;
    }
    for (; first < tree->count && tree->nodes[tree->order[first]].parent == parent && tree->shown < tree->top;
         first++) {
        tree->shown++;
        add_row(tree, &tree->nodes[tree->order[first]], depth);
        show_children(tree, tree->order[first], depth + 1);
    }
}

void ms_print_tasks(FILE *out, const ms_model_t *model, size_t top) {
    static const char *const header[] = {"~Task",          ">id",   "<state",    ">allocated", ">live",
                                         ">with children", ">peak", ">outlived", ">handed off"};
    ms_tree_t tree = {.top = top};
    if (model->tasks.count == 0 || (model->tasks.count == 1 && model->tasks.rows[0].id == 0)) return;
    build(&tree, model);
    tree.table = ms_text_table_new(header, sizeof header / sizeof header[0]);
    show_children(&tree, NO_PARENT, 0);
    fputc('\n', out);
    ms_text_table_print(tree.table, out, 0, ms_text_terminal_width(out));
    if (tree.count > tree.shown) fprintf(out, "  ... and %s more tasks\n", ms_text_count(tree.count - tree.shown).text);
    free(tree.order);
    free(tree.nodes);
}
