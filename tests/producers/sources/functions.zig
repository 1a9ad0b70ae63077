// SPDX-License-Identifier: Apache-2.0
// TVM-FFI functions of Zig: its standard library, errors, thread-local variables, wide integers.
const std = @import("std");
const Any = extern struct { type_index: i32, padding: u32 = 0, value: i64 };
extern fn TVMFFIErrorSetRaisedFromCStr(kind: [*:0]const u8, message: [*:0]const u8) void;
threadlocal var count: i64 = 0;

fn give(result: *Any, value: i64) c_int {
    result.* = .{ .type_index = 1, .value = value };
    return 0;
}
fn fail(err: anyerror) c_int {
    TVMFFIErrorSetRaisedFromCStr("ValueError", @errorName(err));
    return -1;
}
export fn __tvm_ffi_add(_: ?*anyopaque, args: [*]const Any, _: i32, result: *Any) c_int {
    return give(result, args[0].value + args[1].value);
}
export fn __tvm_ffi_parse(_: ?*anyopaque, args: [*]const Any, _: i32, result: *Any) c_int {
    var buffer: [64]u8 = undefined;
    const text = std.fmt.bufPrint(&buffer, "{d}{s}", .{ args[0].value, if (args[0].value < 0) "x" else "" }) catch |e| return fail(e);
    return give(result, std.fmt.parseInt(i64, text, 10) catch |e| return fail(e));
}
export fn __tvm_ffi_words(_: ?*anyopaque, args: [*]const Any, _: i32, result: *Any) c_int {
    const allocator = std.heap.page_allocator;
    var words = std.AutoHashMap(i64, i64).init(allocator);
    defer words.deinit();
    var i: i64 = 0;
    while (i < args[0].value) : (i += 1) {
        const entry = words.getOrPut(@mod(i * i, 17)) catch |e| return fail(e);
        if (!entry.found_existing) entry.value_ptr.* = 0;
        entry.value_ptr.* += i;
    }
    var total: i64 = 0;
    var it = words.iterator();
    while (it.next()) |entry| total += entry.key_ptr.* * entry.value_ptr.*;
    return give(result, total);
}
export fn __tvm_ffi_count(_: ?*anyopaque, args: [*]const Any, _: i32, result: *Any) c_int {
    count += args[0].value;
    return give(result, count);
}
export fn __tvm_ffi_wide(_: ?*anyopaque, args: [*]const Any, _: i32, result: *Any) c_int {
    const wide: i128 = @as(i128, args[0].value) * 1_000_000_007 * 998_244_353;
    const half: f16 = @floatFromInt(@mod(args[0].value, 1000));
    return give(result, @as(i64, @intCast(@mod(wide, 1_000_000_009))) + @as(i64, @intFromFloat(half * 3.5)));
}
