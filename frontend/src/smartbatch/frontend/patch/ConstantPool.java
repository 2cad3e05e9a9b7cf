package smartbatch.frontend.patch;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * Points a compiled class at other classes than it was compiled against, without touching its code.
 *
 * <p>Instructions name classes and methods by their number in the class file's constant pool (JVMS 4.4). Adding
 * constants at the pool's end renumbers nothing, so a class that is made, or a static method's, can be another one.
 * Descriptors stay: what comes instead has to be a subclass, or have a method of the same descriptor.
 */
final class ConstantPool {
    private static final int UTF8 = 1;
    private static final int LONG = 5;
    private static final int DOUBLE = 6;
    private static final int CLASS = 7;
    private static final int STRING = 8;
    private static final int METHOD = 10;
    private static final int METHOD_HANDLE = 15;
    private static final int METHOD_TYPE = 16;
    private static final int COUNT_AT = 8;
    /** The instructions of `new X(`; only ever found where they are, since the bytes searched are known ones. */
    private static final byte NEW = (byte) 0xbb;
    private static final byte DUP = 0x59;

    private final ByteBuffer bytes;
    private final int[] offsets;
    private final int end;
    private final List<byte[]> added = new ArrayList<>();

    /** @param classFile is copied. */
    ConstantPool(byte[] classFile) {
        bytes = ByteBuffer.wrap(classFile.clone());
        offsets = new int[bytes.getShort(COUNT_AT) & 0xffff];
        int at = COUNT_AT + 2;
        for (int i = 1; i < offsets.length; i++) {
            offsets[i] = at;
            int tag = bytes.get(at);
            at += 1 + size(tag, at);
            if (tag == LONG || tag == DOUBLE) {
                i++; // takes two numbers
            }
        }
        end = at;
    }

    private int size(int tag, int at) {
        switch (tag) {
            case UTF8:
                return 2 + (bytes.getShort(at + 1) & 0xffff);
            case CLASS, STRING, METHOD_TYPE:
                return 2;
            case METHOD_HANDLE:
                return 3;
            case LONG, DOUBLE:
                return 8;
            default:
                return 4;
        }
    }

    /**
     * Let `new from(…)` make its subclass `to`, by the constructor of the same descriptor; all else goes on to see `from`.
     */
    ConstantPool construct(String from, Class<?> to) {
        int target = classEntry(slashed(to));
        byte[] all = bytes.array();
        boolean found = false;
        for (int i = end; i + 3 < all.length; i++) {
            if (all[i] == NEW && all[i + 3] == DUP) {
                int made = bytes.getShort(i + 1) & 0xffff;
                if (made > 0 && made < offsets.length && isTag(made, CLASS) && className(made).equals(from)) {
                    bytes.putShort(i + 1, (short) target);
                    found = true;
                }
            }
        }
        require(found, "new " + from);
        for (int i = 1; i < offsets.length; i++) {
            if (isMethodOf(i, from, "<init>")) {
                bytes.putShort(offsets[i] + 1, (short) target);
            }
        }
        return this;
    }

    /** Let calls of the static method `owner.name` go to the method of the same name and descriptor in `to`. */
    ConstantPool redirectStatic(String owner, String name, Class<?> to) {
        int target = 0;
        for (int i = 1; i < offsets.length; i++) {
            if (isMethodOf(i, owner, name)) {
                target = target == 0 ? classEntry(slashed(to)) : target;
                bytes.putShort(offsets[i] + 1, (short) target);
            }
        }
        return require(target != 0, owner + "." + name);
    }

    /** The class file with its changes. */
    byte[] toByteArray() {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] all = bytes.array();
        out.write(all, 0, COUNT_AT);
        int count = offsets.length + added.size();
        out.write(count >> 8);
        out.write(count);
        out.write(all, COUNT_AT + 2, end - COUNT_AT - 2);
        added.forEach(out::writeBytes);
        out.write(all, end, all.length - end);
        return out.toByteArray();
    }

    private ConstantPool require(boolean found, String what) {
        if (!found) {
            throw new IllegalArgumentException("the class does not mention " + what);
        }
        return this;
    }

    private boolean isMethodOf(int index, String owner, String name) {
        return isTag(index, METHOD) && className(pointer(index, 1)).equals(owner) && methodName(index).equals(name);
    }

    private boolean isTag(int index, int tag) {
        return offsets[index] != 0 && bytes.get(offsets[index]) == tag;
    }

    private int pointer(int index, int at) {
        return bytes.getShort(offsets[index] + at) & 0xffff;
    }

    private String className(int classIndex) {
        return classIndex < offsets.length ? text(pointer(classIndex, 1)) : ""; // else one that was added
    }

    private String methodName(int methodIndex) {
        return text(pointer(pointer(methodIndex, 3), 1));
    }

    private String text(int index) {
        int length = pointer(index, 1);
        return new String(bytes.array(), offsets[index] + 3, length, StandardCharsets.UTF_8);
    }

    private static String slashed(Class<?> type) {
        return type.getName().replace('.', '/');
    }

    private int utf8(String text) {
        byte[] encoded = text.getBytes(StandardCharsets.UTF_8);
        return add(ByteBuffer.allocate(3 + encoded.length).put((byte) UTF8).putShort((short) encoded.length).put(encoded));
    }

    private int classEntry(String name) {
        return add(ByteBuffer.allocate(3).put((byte) CLASS).putShort((short) utf8(name)));
    }

    private int add(ByteBuffer entry) {
        added.add(entry.array());
        return offsets.length + added.size() - 1;
    }
}
