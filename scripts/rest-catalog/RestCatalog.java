import java.io.FileReader;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Apache Iceberg's own REST catalog handlers over its JDBC catalog, on loopback only.
 *
 * <p>Differs from Iceberg's RESTCatalogServer fixture in that it binds 127.0.0.1 (the fixture binds
 * every interface) and takes a free port when asked for port 0, which it prints.
 *
 * <p>Usage: {@code java RestCatalog PORT FILE}, where FILE is a Java properties file with the
 * catalog's own properties (uri, warehouse, io-impl, s3.endpoint, ...). Prints {@code listening PORT}.
 */
public final class RestCatalog {
  private RestCatalog() {}

  public static void main(String[] args) throws Exception {
    if (args.length != 2) {
      System.err.println("usage: RestCatalog PORT PROPERTIES_FILE");
      System.exit(2);
    }
    Properties file = new Properties();
    try (FileReader reader = new FileReader(args[1])) {
      file.load(reader);
    }
    Map<String, String> properties = new HashMap<>();
    file.stringPropertyNames().forEach(name -> properties.put(name, file.getProperty(name)));
    properties.putIfAbsent("catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog");
    properties.putIfAbsent("jdbc.schema-version", "V1");
    // One connection: SQLite answers "database is locked" to a second writer.
    properties.putIfAbsent("clients", "1");

    Catalog catalog = CatalogUtil.buildIcebergCatalog("rest", properties, new Configuration());
    ServletContextHandler context =
        new ServletContextHandler(ServletContextHandler.NO_SESSIONS);
    context.addServlet(
        new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(catalog))), "/*");

    Server server = new Server();
    ServerConnector connector = new ServerConnector(server);
    connector.setHost("127.0.0.1");
    connector.setPort(Integer.parseInt(args[0]));
    server.addConnector(connector);
    server.setHandler(context);
    server.start();
    System.out.println("listening " + connector.getLocalPort());
    server.join();
  }
}
